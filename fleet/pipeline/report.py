"""`report.html`: a run for people to look at."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from fleet.durable import write_durably
from wire.errors import StorageError

from . import charts
from .page import Page
from .record import RunRecord

FILE_NAME: Final = "report.html"
MAX_LISTED: Final = 20


def write_report(folder: Path, record: RunRecord) -> Path:
    """Write the report of a run; return its path.

    Raises:
        StorageError: `run_unwritable`.
    """
    path = folder / FILE_NAME
    try:
        write_durably(path, make_report(record).encode("utf-8", "replace"))
    except OSError as exc:
        raise StorageError(f"cannot write {path}: {exc.strerror}", code="run_unwritable") from exc
    return path


def make_report(record: RunRecord) -> str:
    """Return the page."""
    page = Page(f"{record.model}, run {record.id}")
    _head(page, record)
    _data(page, record)
    _training(page, record)
    _model(page, record)
    _lineage(page, record)
    return page.html()


def _head(page: Page, record: RunRecord) -> None:
    mark, tone = {
        "done": ("done", "good"),
        "failed": ("failed", "bad"),
        "running": ("running", "open"),
        "interrupted": ("interrupted", "open"),
    }[record.state]
    page.header(record.model, mark, tone, [f"run {record.id}, {_at(record.started_unix_ms)}"])
    if record.failure is not None:
        page.text(f"Ended at {record.failure.step}: {record.failure.message}", "bad")
        page.text(record.failure.hint, "quiet")


def _data(page: Page, record: RunRecord) -> None:
    data = record.data
    if data is None:
        return
    page.section("Data")
    page.text(
        f"{data.row_count:,} rows of {len(data.feature_names)} features; the label is {data.label}."
        " Each row's part follows from a hash of the row, so that it stays where it is when rows"
        " are added."
    )
    if charts.has_matplotlib():
        page.picture(charts.stacked_shares(data.parts))
        if data.classes:
            page.picture(charts.class_balance(data.classes))
    page.table(
        ("file", "rows", "sha-256"),
        [
            (source.path, f"{source.row_count:,}", f"`{source.sha256[:16]}`")
            for source in data.sources[:MAX_LISTED]
        ],
        numbers=(1,),
    )
    if len(data.sources) > MAX_LISTED:
        page.text(f"and {len(data.sources) - MAX_LISTED} files more", "quiet")


def _training(page: Page, record: RunRecord) -> None:
    page.section("Parameters")
    params = record.tuned if record.tuned is not None else record.params
    if not params:
        page.text("The training function is given none.", "quiet")
        return
    page.table(
        ("parameter", "value", "in pipeline.toml"),
        [
            (name, _shown(value), _shown(record.params.get(name)) if record.tuned else "the same")
            for name, value in sorted(params.items())
        ],
    )


def _model(page: Page, record: RunRecord) -> None:
    bundle = record.bundle
    if bundle is None:
        return
    page.section("Model")
    page.facts(
        [
            ("bundle", f"`{bundle.manifest}`"),
            ("version", bundle.version),
            ("size", f"{bundle.bytes:,} bytes"),
            *((name, f"{value:.4f}") for name, value in record.metrics.items()),
        ]
    )
    page.heading("Converted beside the original")
    page.items(bundle.worst)
    if bundle.warnings:
        page.heading("Warnings")
        page.items(bundle.warnings)
    if (release := record.release) is not None:
        page.heading("Release")
        page.facts(
            [
                ("release", f"{record.model}:{release.version}"),
                ("pushed", _at(release.pushed_unix_ms)),
                *([("rollout", f"`{release.rollout}`")] if release.rollout else []),
            ]
        )


def _lineage(page: Page, record: RunRecord) -> None:
    page.section("Lineage")
    code = record.code
    commit = f"`{code.commit}`" if code.commit else "no git repository"
    changed = {True: "with changes that are not committed", False: "unchanged", None: ""}
    page.facts(
        [
            *([("data", f"`{record.data.sha256}`")] if record.data else []),
            ("code", f"`{code.sha256}`"),
            ("commit", commit),
            *([("", changed[code.is_dirty])] if code.is_dirty is not None else []),
            ("seed", record.seed),
            *([("model file", f"`{record.bundle.model}`")] if record.bundle else []),
        ]
    )
    page.table(
        ("step", "", "seconds", "inputs", "outcome"),
        [
            (
                step.name,
                step.state,
                f"{step.seconds:.1f}",
                f"`{step.key[:12]}`" if step.key else "",
                f"`{step.output[:12]}`" if step.output else "",
            )
            for step in record.steps
        ],
        numbers=(2,),
    )
    page.table(("library", "version"), sorted(record.libraries.items()))
    if record.trigger is not None:
        page.heading("What started it")
        page.text(_shown(record.trigger))


def _shown(value: JsonValue) -> str:
    return "" if value is None else str(value)[:2000]


def _at(unix_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_ms / 1000))
