"""`fleet pipeline …`: from rows to a release, step by step."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from pydantic import JsonValue

from fleet.pipeline.record import (
    MAX_TRIGGER_BYTES,
    RunRecord,
    StepRecord,
    all_records,
    find_record,
)
from wire.codec import parse_json
from wire.errors import ConfigError, PeerError

from .console import (
    Controller,
    Json,
    ago,
    counted,
    end_in_order,
    in_bytes,
    printable,
    say,
    show,
    show_facts,
    show_json,
)
from .pipeline_compile import compile_pipeline
from .signer import Keys, Output, PassphraseFile
from .verdict import verdict

if TYPE_CHECKING:
    from fleet.pipeline.project import Project

STEP_WIDTH: Final = 10
Folder = Annotated[
    Path, typer.Option("--project", "-C", help="Folder of the project; else this one.")
]
RunId = Annotated[
    str | None, typer.Argument(help="Id of a run, or its beginning; else the newest.")
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    pipeline = typer.Typer(help="From rows to a release.", no_args_is_help=True)
    pipeline.command("init")(init)
    pipeline.command("run")(run)
    pipeline.command("list")(list_runs)
    pipeline.command("show")(show_run)
    pipeline.command("verdict")(verdict)
    pipeline.command("compare")(compare)
    pipeline.command("compile")(compile_pipeline)
    app.add_typer(pipeline, name="pipeline")


def init(
    folder: Annotated[
        Path, typer.Argument(help="A new folder, or an empty one; with --ci also a project.")
    ],
    source: Annotated[
        str, typer.Option("--from", help="What to begin with: digits or diabetes.")
    ] = "digits",
    ci: Annotated[
        str | None,
        typer.Option("--ci", help="Add workflows that validate, and release on a tag: github."),
    ] = None,
) -> None:
    """Make a folder that runs as it is, with real data: change it into yours."""
    from fleet.pipeline.project import FILE_NAME
    from fleet.pipeline.starter import make_project
    from fleet.pipeline.workflows import plan_workflows, write_files

    workflows = plan_workflows(folder, ci) if ci is not None else {}
    if not workflows or not (folder / FILE_NAME).exists():
        make_project(folder, source)
        typer.echo(f"wrote {printable(str(folder))}: pipeline.toml, train.py, data/")
    for path in write_files(workflows):
        typer.echo(f"wrote {printable(str(path))}")
    typer.echo(f"next: fleet pipeline run {printable(str(folder))}")


class _Told:
    """What a person sees of a run: one line a step, on stderr."""

    def began(self, step: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"{step:<{STEP_WIDTH}}  …\r")
            sys.stderr.flush()

    def told(self, text: str) -> None:
        say(f"{'':<{STEP_WIDTH}}  {text}")

    def ended(self, step: StepRecord, detail: str) -> None:
        took = f"{step.seconds:6.1f} s" if step.state == "ran" else f"{step.state:>8}"
        say(f"{step.name:<{STEP_WIDTH}}  {took}  {detail}".rstrip())


def run(
    folder: Annotated[
        Path, typer.Argument(help="Folder with pipeline.toml; else this one.")
    ] = Path(),
    param: Annotated[
        list[str] | None,
        typer.Option("--param", help="NAME=VALUE instead of what [train] params says; repeatable."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Stop after this step.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run every step, also those whose outcome is kept.")
    ] = False,
    release: Annotated[
        bool | None,
        typer.Option("--release/--no-release", help="Push the bundle; else as [release] push."),
    ] = None,
    rollout: Annotated[
        bool | None,
        typer.Option("--rollout/--no-rollout", help="Start its rollout; else as [rollout] auto."),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Version of the release; else as [release] version.")
    ] = None,
    kept: Annotated[
        bool, typer.Option("--kept", help="Make nothing again: refuse what is not kept in runs/.")
    ] = False,
    trigger: Annotated[
        Path | None, typer.Option(help="JSON with the evidence of what started this; it is kept.")
    ] = None,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    output: Output = None,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Run the steps whose inputs have changed; what was interrupted goes on where it was."""
    try:
        from fleet.pipeline.pipeline import run_pipeline
    except ImportError as exc:
        raise ConfigError(
            f"the pipeline is not installed: {exc}",
            code="pipeline_missing",
            hint="pip install 'modelfleet[fleet,pipeline]'",
        ) from exc
    from fleet.pipeline.project import load_project
    from fleet.pipeline.run import Options
    from fleet.pipeline.steps import ORDER

    from .pipeline_fleet import CommandFleet

    if until is not None and until not in ORDER:
        raise typer.BadParameter(f"is one of {', '.join(ORDER)}", param_hint="--until")
    if force and kept:
        raise typer.BadParameter("is the opposite of --force", param_hint="--kept")
    project = load_project(folder).with_params(_params(param))
    project = project if version is None else project.with_version(version)
    options = Options(
        until=until,
        is_forced=force,
        push=release,
        roll_out=rollout,
        trigger=_evidence(trigger),
        is_kept_only=kept,
    )
    end_in_order()
    fleet = CommandFleet(controller, keys, passphrase_file, output)
    try:
        record = run_pipeline(project, options, _Told(), fleet)
    except KeyboardInterrupt:
        say("\ninterrupted; the same command goes on where it was")
        raise
    if json:
        show_json(record.model_dump(mode="json"))
        return
    _tell(project, record)


def _tell(project: Project, record: RunRecord) -> None:
    folder = project.runs / record.id
    show_facts(
        [
            ("run", record.id),
            *(
                [
                    ("bundle", f"{folder / 'model.bundle'} ({in_bytes(record.bundle.bytes)})"),
                    ("manifest", record.bundle.manifest),
                    *(("warning", text) for text in record.bundle.warnings),
                ]
                if record.bundle
                else []
            ),
            *_verdict(record),
            ("report", folder / "report.html"),
        ]
    )
    judged, release = record.verdict, record.release
    if release is not None:
        if release.is_signed and release.rollout is None:
            typer.echo(f"next: fleet rollout start {record.model}:{release.version}")
    elif judged is not None and judged.outcome == "bless":
        typer.echo("next: fleet pipeline run --release")


def _verdict(record: RunRecord) -> list[tuple[str, object]]:
    if record.verdict is None:
        return []
    reasons = [("", reason) for reason in record.verdict.reasons]
    return [("verdict", record.verdict.outcome), *reasons]


def list_runs(project: Folder = Path(), json: Json = False) -> None:
    """List the runs, newest first."""
    records = all_records(_runs(project))
    if json:
        show_json([record.model_dump(mode="json") for record in records])
        return
    show(
        [
            {
                "RUN": record.id,
                "STATE": record.state,
                "STARTED": ago(record.started_unix_ms),
                "ROWS": record.data.row_count if record.data else None,
                "FIGURE": _main_figure(record),
                "VERDICT": record.verdict.outcome if record.verdict else None,
                "RELEASE": record.release.version if record.release else None,
                "CODE": (record.code.commit or record.code.sha256)[:8]
                + ("+" if record.code.is_dirty else ""),
            }
            for record in records
        ],
        empty="no run yet; `fleet pipeline run` makes one",
    )


def _main_figure(record: RunRecord) -> str:
    name = next((name for name in ("accuracy", "mae") if name in record.metrics), "")
    return f"{name} {record.metrics[name]:.4f}" if name else ""


def show_run(run: RunId = None, project: Folder = Path(), json: Json = False) -> None:
    """Show a run: its data, parameters, steps, and what came out."""
    record = find_record(_runs(project), run)
    if json:
        show_json(record.model_dump(mode="json"))
        return
    show_facts(_facts(record))
    typer.echo()
    show(
        [
            {
                "STEP": step.name,
                "STATE": step.state,
                "SECONDS": f"{step.seconds:.1f}",
                "INPUTS": step.key[:12] if step.key else None,
                "OUTCOME": step.output[:12] if step.output else None,
            }
            for step in record.steps
        ],
        empty="no step was done",
    )


def _facts(record: RunRecord) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [
        ("run", record.id),
        ("model", f"{record.model} ({record.kind})"),
        ("state", record.state),
        ("started", ago(record.started_unix_ms)),
    ]
    if (failure := record.failure) is not None:
        facts += [("failed at", failure.step), ("why", failure.message), ("", failure.hint)]
    if (data := record.data) is not None:
        parts = ", ".join(f"{count} {name}" for name, count in data.parts.items())
        facts += [
            ("data", f"{data.row_count} rows of {counted(len(data.sources), 'file')}: {parts}"),
            ("", data.sha256),
        ]
    dirty = ", with changes that are not committed" if record.code.is_dirty else ""
    facts.append(("code", f"{record.code.commit or record.code.sha256}{dirty}"))
    params = record.params if record.tuned is None else record.tuned
    facts += [("parameter", f"{name} = {value}") for name, value in params.items()]
    if (validation := record.validation) is not None:
        facts.append(("schema", validation.verdict))
        facts += [("", anomaly.sentence) for anomaly in validation.anomalies]
    facts += [(name, f"{value:.4f}") for name, value in record.metrics.items()]
    facts += _verdict(record)
    if (bundle := record.bundle) is not None:
        facts += [("manifest", bundle.manifest), ("model file", bundle.model)]
        facts += [("parity", text) for text in bundle.worst]
        facts += [("warning", text) for text in bundle.warnings]
    if (release := record.release) is not None:
        facts.append(("release", f"{record.model}:{release.version}"))
        facts += [("rollout", release.rollout)] if release.rollout else []
    return facts


def compare(
    first: Annotated[str, typer.Argument(help="Id of a run, or its beginning.")],
    second: Annotated[str, typer.Argument(help="The other.")],
    project: Folder = Path(),
    json: Json = False,
) -> None:
    """Show what differs between two runs: data, code, parameters, libraries, and what came out."""
    from fleet.pipeline.differences import differences

    runs = _runs(project)
    one, other = find_record(runs, first), find_record(runs, second)
    found = differences(one, other)
    if json:
        show_json(
            {
                "first": one.id,
                "second": other.id,
                "differences": [
                    {"what": d.what, "first": d.first, "second": d.second} for d in found
                ],
            }
        )
        return
    show(
        [{"WHAT": d.what, one.id: _short(d.first), other.id: _short(d.second)} for d in found],
        empty=f"{one.id} and {other.id} do not differ",
    )


def _short(value: JsonValue) -> str | None:
    return None if value is None else str(value)[:60]


def _runs(folder: Path) -> Path:
    from fleet.pipeline.project import load_project

    return load_project(folder).runs


def _params(given: Sequence[str] | None) -> dict[str, JsonValue]:
    params: dict[str, JsonValue] = {}
    for text in given or ():
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--param")
        params[name] = _value(value)
    return params


def _value(text: str) -> JsonValue:
    """Return a value as in pipeline.toml; what is none there is text."""
    try:
        parsed: Mapping[str, Any] = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = parsed["value"]
    return value if isinstance(value, (bool, int, float, str, list, dict)) else text


def _evidence(path: Path | None) -> JsonValue:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TRIGGER_BYTES + 1)
        evidence: JsonValue = parse_json(raw, max_bytes=MAX_TRIGGER_BYTES)
    except OSError as exc:
        raise typer.BadParameter(
            f"cannot read {path}: {exc.strerror}", param_hint="--trigger"
        ) from exc
    except PeerError as exc:
        raise typer.BadParameter(f"{path}: {exc}", param_hint="--trigger") from exc
    return evidence
