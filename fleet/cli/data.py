"""`fleet data …`: what a file of rows holds, and what a TFDV schema has against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from wire.errors import ConfigError, StorageError

from .console import HALTED, INCONCLUSIVE, Json, counted, say, show, show_facts, show_json
from .drift import sparkline

if TYPE_CHECKING:
    from fleet.pipeline.anomalies import Validation
    from fleet.pipeline.tfdv import SchemaFile

LIBRARIES: Final = ("pyarrow", "tensorflow_metadata")
MAX_SHOWN: Final = 50

Data = Annotated[Path, typer.Argument(help="Rows as .npz, .csv or .parquet.")]
SchemaOption = Annotated[Path, typer.Option("--schema", help="TFDV's schema.pbtxt.")]
Labels = Annotated[
    list[str] | None,
    typer.Option(help="Column that is not there when the model serves; repeatable."),
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    data = typer.Typer(
        help="Rows before they train a model, as TFDV sees them.", no_args_is_help=True
    )
    data.command("statistics")(statistics)
    data.command("infer")(infer)
    data.command("validate")(validate)
    app.add_typer(data, name="data")


def check_installed() -> None:
    """Check that the libraries are there.

    Raises:
        ConfigError: `pipeline_missing`.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the pipeline is not installed: there is no {', '.join(missing)}",
            code="pipeline_missing",
            hint="pip install 'modelfleet[fleet,pipeline]'",
        )


def statistics(
    file: Data,
    schema: Annotated[
        Path | None, typer.Option(help="TFDV's schema.pbtxt: what types the columns are of.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write TFDV's DatasetFeatureStatisticsList here, as text.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what each column of a file holds."""
    check_installed()
    from fleet.pipeline.textproto import as_json, encode

    counts = _statistics(file, schema)
    if output is not None:
        _write(output, encode(counts))
    if json:
        show_json(as_json(counts))
        return
    data = counts.datasets[0]
    show([_row(feature) for feature in data.features[:MAX_SHOWN]], empty="the file has no columns")
    if len(data.features) > MAX_SHOWN:
        say(f"{len(data.features) - MAX_SHOWN} more; --json has all")
    if output is not None:
        say(f"wrote {output}")


def infer(
    file: Data,
    output: Annotated[Path, typer.Option(help="The schema to write.")],
    label: Labels = None,
    update: Annotated[
        bool, typer.Option("--update", help="Add what a schema that is there lacks; keep the rest.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the schema that a file meets: types, presence, vocabularies. Ranges are yours to add."""
    check_installed()
    from fleet.pipeline import tfdv
    from fleet.pipeline.reason import name_of

    if output.exists() and not update:
        raise typer.BadParameter(
            f"{output} is there; --update adds what it lacks", param_hint="--output"
        )
    known = tfdv.read_schema(output) if output.exists() else tfdv.SchemaFile()
    counts = _statistics(file, output if output.exists() else None)
    names = {name_of(feature) for feature in counts.datasets[0].features}
    if absent := [name for name in label or () if name not in names]:
        raise typer.BadParameter(
            f"{file} has no column {absent[0]!r}; it has {', '.join(sorted(names)[:12])}",
            param_hint="--label",
        )
    added = tfdv.extend_schema(known.schema, counts)
    if label:
        tfdv.leave_out_in_serving(known.schema, label)
    _write(output, tfdv.encode_schema(known))
    if json:
        show_json({"output": str(output), "added": list(added)})
        return
    typer.echo(f"wrote {output}: {counted(len(added), 'feature')} added")


def validate(
    file: Data,
    schema: SchemaOption,
    previous: Annotated[
        Path | None,
        typer.Option(help="The data before, for drift: rows, or statistics as .pbtxt."),
    ] = None,
    serving: Annotated[
        Path | None, typer.Option(help="The data in service, for skew: rows, or statistics.")
    ] = None,
    environment: Annotated[
        str | None, typer.Option(help="The schema's environment that is meant, such as SERVING.")
    ] = None,
    warn: Annotated[
        list[str] | None,
        typer.Option(help="An anomaly that is only a warning, by its code; repeatable."),
    ] = None,
    anomalies: Annotated[
        Path | None, typer.Option(help="Write TFDV's Anomalies here, as text.")
    ] = None,
    json: Json = False,
) -> None:
    """Check a file against a schema; exit code 3 for anomalies, 4 where nothing is there to compare with."""
    check_installed()
    from fleet.pipeline import anomalies as checks
    from fleet.pipeline import tfdv
    from fleet.pipeline.textproto import encode

    wanted = tfdv.read_schema(schema)
    unknown = [code for code in warn or () if code not in tfdv.REASONS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is no code of TFDV", param_hint="--warn")
    found = checks.validate(
        _statistics(file, wanted),
        wanted.schema,
        environment=environment,
        previous=_statistics(previous, wanted) if previous is not None else None,
        serving=_statistics(serving, wanted) if serving is not None else None,
        overrides=dict.fromkeys(warn or (), checks.Severity.WARNING),
    )
    if anomalies is not None:
        _write(anomalies, encode(tfdv.anomalies_message(found, wanted.schema)))
    if json:
        show_json({"verdict": found.verdict, **asdict(found)})
    else:
        _print(found)
    code = {checks.Verdict.VALID: 0, checks.Verdict.NO_BASELINE: INCONCLUSIVE}
    raise typer.Exit(code.get(found.verdict, HALTED))


def _print(found: Validation) -> None:
    show(
        [
            {
                "FEATURE": anomaly.feature or "(all rows)",
                "SEVERITY": anomaly.severity.lower(),
                "CODE": anomaly.reason,
                "WHAT": anomaly.sentence,
            }
            for anomaly in found.anomalies
        ],
        empty="no anomalies",
    )
    for comparison in found.unmade:
        say(f"not compared ({comparison.comparator}): {comparison.sentence}")
    for sentence in found.unchecked:
        say(f"not checked: {sentence}")
    show_facts([("rows", found.row_count), ("verdict", found.verdict)])


def _statistics(path: Path, schema: Path | SchemaFile | None) -> Any:
    """Return the statistics of a file of rows, or those in a text file."""
    from fleet.pipeline.data_file import read_data
    from fleet.pipeline.statistics import statistics_of
    from fleet.pipeline.tfdv import read_schema, read_statistics

    if path.suffix == ".pbtxt":
        return read_statistics(path)
    known = read_schema(schema) if isinstance(schema, Path) else schema
    return statistics_of(read_data(path), known.schema if known is not None else None)


def _row(feature: Any) -> dict[str, object]:
    from fleet.pipeline.reason import FeatureView, name_of

    view = FeatureView(feature)
    row: dict[str, object] = {
        "FEATURE": name_of(feature),
        "TYPE": feature.Type.Name(feature.type),
        "VALUES": view.count,
        "MISSING": view.missing_count or "",
    }
    numbers, texts = view.numbers, feature.string_stats
    has_numbers = view.has_numbers and any(h.buckets for h in numbers.histograms)
    ends = (numbers.min, numbers.median, numbers.max, numbers.mean, numbers.std_dev)
    titles = ("MIN", "MEDIAN", "MAX", "MEAN", "STD")
    row |= {t: f"{v:.4g}" if has_numbers else "" for t, v in zip(titles, ends, strict=True)}
    row["DISTINCT"] = texts.unique or ""
    bins = _bins(numbers.histograms[0].buckets) if has_numbers else []
    row["HOW"] = sparkline(bins) if bins else ", ".join(list(view.counts)[:3])[:40]
    return row


def _bins(buckets: Sequence[Any]) -> list[float]:
    total = sum(bucket.sample_count for bucket in buckets) or 1.0
    return [bucket.sample_count / total for bucket in buckets]


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise StorageError(
            f"cannot write {path}: {exc.strerror or exc}", code="output_unwritable"
        ) from exc
