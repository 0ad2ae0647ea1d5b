"""`fleet convert`: an estimator or a file becomes a verified bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wire.errors import PeerError
from wire.schema import Schema

from .console import (
    Json,
    end_in_order,
    in_bytes,
    parse_seconds,
    printable,
    say,
    show_facts,
    show_json,
)
from .mlflow_model import Source, TrackingUri, source_of

if TYPE_CHECKING:
    from converter import ConvertReport

_VERDICTS = {
    "parity": "parity with the original on {} rows",
    "no_original": "ONNX already, so there is no original to compare it with; it answered {} rows",
}


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("convert")(convert)


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="FILE.skops, .onnx, .joblib or .pkl, module:attribute, or MLflow's models:/NAME@ALIAS."
        ),
    ],
    name: Annotated[str, typer.Option(help="The model's name on the devices.")],
    version: Annotated[str, typer.Option(help="The release's version, such as 1.0.0.")],
    data: Annotated[
        Path, typer.Option(help="Rows as .npz, 64 or more: X, and y if there are labels.")
    ],
    output: Annotated[Path | None, typer.Option(help="Else NAME-VERSION.bundle.")] = None,
    trust_pickle: Annotated[
        bool,
        typer.Option("--trust-pickle", help="Load .joblib and .pkl, which run code as you."),
    ] = False,
    p99_ms: Annotated[float | None, typer.Option(min=0.001, help="Latency you promise.")] = None,
    memory_mb: Annotated[int | None, typer.Option(min=1, help="Memory it may take.")] = None,
    device_class: Annotated[str, typer.Option(help="Architecture it is made for, or any.")] = "any",
    nan_policy: Annotated[
        str, typer.Option(help="What devices do with missing values: reject or pass.")
    ] = "reject",
    schema: Annotated[
        Path | None,
        typer.Option(help="What features may hold: JSON, or TFDV's schema.pbtxt."),
    ] = None,
    card: Annotated[Path | None, typer.Option(help="Model card (Markdown) for people.")] = None,
    code_commit: Annotated[str | None, typer.Option(help="Commit it was trained from.")] = None,
    signature: Annotated[
        Path | None, typer.Option(help="OpenSSF signature of the model; verified before all else.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="With --signature: the key of who must have signed (PEM).")
    ] = None,
    certificate_chain: Annotated[
        list[Path] | None,
        typer.Option(help="With --signature: authorities that vouch for who signed (PEM)."),
    ] = None,
    timeout: Annotated[str, typer.Option(help="How long loading and exporting may take.")] = "10m",
    tracking_uri: TrackingUri = None,
    json: Json = False,
) -> None:
    """Convert a model to ONNX, prove that it answers alike, and pack it as a bundle."""
    timeout_s = parse_seconds(timeout, option="--timeout")
    with source_of(source, tracking_uri) as given:
        sha256, signer = _verified(given.file, signature, public_key, certificate_chain or [])
        report = convert_source(
            given,
            name=name,
            version=version,
            data=data,
            output=output or Path(f"{name}-{version}.bundle"),
            trust_pickle=trust_pickle,
            p99_ms=p99_ms,
            memory_mb=memory_mb,
            device_class=device_class,
            nan_policy=nan_policy,
            schema=_device_schema(schema, nan_policy),
            card=card,
            code_commit=code_commit,
            source_sha256=sha256,
            source_signer=signer,
            timeout_s=timeout_s,
        )
    if json:
        show_json(report.to_json())
        return
    _tell(report, signer)
    typer.echo(f"next: fleet push {printable(str(report.output))}")


def convert_source(
    source: Source, *, name: str, version: str, data: Path, output: Path, **more: Any
) -> ConvertReport:
    """Convert a source; `more` is what else `converter.ConvertRequest` has.

    Raises:
        PeerError: `converter_missing`.
        BundleError: The model, its rows or its answers are at fault.
    """
    try:
        from converter import ConvertRequest
        from converter import convert as run
    except ImportError as exc:
        raise PeerError(
            f"the converter is not installed: {exc}",
            code="converter_missing",
            hint="pip install 'modelfleet[converter]'",
        ) from exc
    request = ConvertRequest(
        source=source.file,
        origin=source.origin,
        name=name,
        version=version,
        data=data,
        output=output,
        **more,
    )
    try:
        request.check()
    except PeerError as exc:
        raise typer.BadParameter(str(exc)) from exc
    end_in_order()
    return run(request, progress=say)


def _tell(report: ConvertReport, signer: str | None) -> None:
    show_facts(
        [
            ("bundle", f"{report.output} ({in_bytes(report.bytes)})"),
            ("manifest", report.manifest),
            *([("signed by", signer)] if signer else ()),
            ("verdict", _VERDICTS[report.verdict].format(report.row_count)),
            *(("", line) for line in report.worst),
            ("golden", f"{report.golden_count} rows, which devices test themselves with"),
            *((metric, f"{value:.4f} on y") for metric, value in report.metrics.items()),
            *(("warning", line) for line in report.warnings),
        ]
    )


def _device_schema(path: Path | None, nan_policy: str) -> Path | Schema | None:
    """Return what devices check of a TFDV schema; another file as it is."""
    if path is None or path.suffix != ".pbtxt":
        return path
    from .data import check_installed

    check_installed()
    from fleet.pipeline.device_schema import device_schema
    from fleet.pipeline.tfdv import read_schema

    found = device_schema(read_schema(path).schema, nan_policy=nan_policy)
    for sentence in found.unexpressed:
        say(f"not checked on devices: {sentence}")
    return found.schema


def _verified(
    source: str, signature: Path | None, public_key: Path | None, certificates: list[Path]
) -> tuple[str | None, str | None]:
    """Return the digest of a source that is signed, and by whom."""
    from fleet.interop.openssf import verify_source

    if signature is None:
        if public_key or certificates:
            raise typer.BadParameter(
                "--public-key and --certificate-chain go with it", param_hint="--signature"
            )
        return None, None
    if (public_key is None) == (not certificates):
        raise typer.BadParameter(
            "give --public-key, or else --certificate-chain", param_hint="--signature"
        )
    path = Path(source)
    if not path.is_file():
        raise typer.BadParameter(
            f"is for a model in a file, and {source} is none", param_hint="--signature"
        )
    signed = verify_source(path, signature, public_key=public_key, certificates=certificates)
    say(f"{signature} is good: {signed.signer}")
    return signed.sha256, signed.signer
