"""`report.html`: a run for people to look at."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from fleet.durable import write_durably
from wire.errors import StorageError

from . import charts
from .checking import SUMMARY
from .figures import add_figures, add_search
from .judging import EVALUATION
from .making import TUNING
from .page import Page
from .record import BundleRecord, RunRecord

FILE_NAME: Final = "report.html"
MAX_LISTED: Final = 20
MAX_FEATURES: Final = 40
_MOMENTS: Final = ("mean", "std_dev", "min", "median", "max")
_MARKS: Final = {
    "done": ("done", "good"),
    "failed": ("failed", "bad"),
    "running": ("running", "open"),
    "interrupted": ("interrupted", "open"),
}
_OUTCOMES: Final = {
    "bless": ("blessed", "good"),
    "refuse": ("refused", "bad"),
    "inconclusive": ("inconclusive", "open"),
}


def write_report(folder: Path, record: RunRecord) -> Path:
    """Write the report of a run; return its path.

    Raises:
        StorageError: `run_unwritable`.
    """
    path = folder / FILE_NAME
    try:
        write_durably(path, make_report(folder, record).encode("utf-8", "replace"))
    except OSError as exc:
        raise StorageError(f"cannot write {path}: {exc.strerror}", code="run_unwritable") from exc
    return path


def make_report(folder: Path, record: RunRecord) -> str:
    """Return the page; figures that a record has no room for are read from the run's folder."""
    page = Page(f"{record.model}, run {record.id}")
    evaluation = _read(folder / EVALUATION)
    _head(page, record)
    _verdict(page, record)
    _data(page, record)
    _statistics(page, record, _read(folder / SUMMARY))
    _training(page, record)
    if tuning := _read(folder / TUNING):
        add_search(page, tuning)
    if record.bundle is not None:
        _model(page, record, record.bundle)
    if record.verdict is not None and evaluation:
        add_figures(page, evaluation)
    _lineage(page, record)
    return page.html()


def _read(path: Path) -> Any:
    """Return what a step left for the report, None where it has not."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _head(page: Page, record: RunRecord) -> None:
    mark, tone = _MARKS[record.state]
    if record.state == "done" and record.verdict is not None:
        mark, tone = _OUTCOMES[record.verdict.outcome]
    page.header(record.model, mark, tone, [f"run {record.id}, {_at(record.started_unix_ms)}"])
    if record.failure is not None:
        page.text(f"Ended at {record.failure.step}: {record.failure.message}", "bad")
        page.text(record.failure.hint, "quiet")


def _verdict(page: Page, record: RunRecord) -> None:
    if record.verdict is None:
        return
    page.section("Verdict")
    page.items(record.verdict.reasons)
    if (release := record.release) is not None:
        page.facts(
            [
                ("release", f"{record.model}:{release.version}"),
                ("pushed", _at(release.pushed_unix_ms)),
                *([] if release.is_signed else [("signed", "not yet: it waits for signatures")]),
                *([("rollout", f"`{release.rollout}`")] if release.rollout else []),
            ]
        )


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
    if data.repeated_count:
        page.text(f"{data.repeated_count:,} captured rows are in two files, and taken once.")
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


def _statistics(page: Page, record: RunRecord, summary: Any) -> None:
    if summary:
        page.heading("Features")
        page.table(
            ("feature", "missing", "mean", "deviation", "smallest", "median", "largest", "texts"),
            [
                (
                    row["name"],
                    row["missing"],
                    *(_number(row.get(name)) for name in _MOMENTS),
                    f"{row['unique']} different: {row['top']}" if "unique" in row else "",
                )
                for row in summary[:MAX_FEATURES]
            ],
            numbers=(1, 2, 3, 4, 5, 6),
        )
        if len(summary) > MAX_FEATURES:
            page.text(f"and {len(summary) - MAX_FEATURES} more, in statistics.pbtxt", "quiet")
    if (validation := record.validation) is not None:
        page.heading(f"Held against the schema: {validation.verdict}")
        page.items(f"{a.reason}: {a.sentence}" for a in validation.anomalies[:MAX_LISTED])
        if not validation.anomalies:
            page.text("Nothing that the schema has against these rows.", "quiet")
        page.items(validation.unmade)


def _model(page: Page, record: RunRecord, bundle: BundleRecord) -> None:
    page.section("Model")
    page.facts(
        [
            ("bundle", f"`{bundle.manifest}`"),
            ("version", bundle.version),
            ("size", f"{bundle.bytes:,} bytes"),
            *(("beside the original", text) for text in bundle.worst),
            *(("warning", text) for text in bundle.warnings),
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


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _shown(value: JsonValue) -> str:
    return "" if value is None else str(value)[:2000]


def _at(unix_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_ms / 1000))
