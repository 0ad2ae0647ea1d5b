"""`fleet push`, `releases`, `models`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from fleet.api.run_schemas import RunRecord, StoredRun
from fleet.api.schemas import Model, PushResult, Release
from fleet.durable import write_durably
from fleet.interop.openssf import sign_files
from fleet.pipeline.made import to_tell
from fleet.pipeline.record import MAX_RECORD_BYTES, parse_record
from fleet.trust.documents import TARGETS
from fleet.trust.draft import signed_before
from fleet.trust.session import Done
from wire.bundle import OpenedBundle, read_bundle
from wire.codec import first_fault, parse_json
from wire.errors import BundleError, ConfigError, PeerError, StorageError
from wire.manifest import MANIFEST
from wire.trust import model_role

from .client import READ_BYTES, Client, all_pages
from .console import (
    Controller,
    Json,
    ago,
    counted,
    given_name,
    given_release_or_alias,
    in_bytes,
    say,
    show,
    show_facts,
    show_json,
)
from .mlflow_model import TrackingUri, is_in_mlflow, source_of
from .signer import Keys, Output, PassphraseFile, finish, open_session


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("push")(push)
    app.command("releases")(list_releases)
    app.command("models")(list_models)


def push(
    bundle: Annotated[
        str,
        typer.Argument(
            help="A .bundle file, made by `fleet convert`; or MLflow's models:/NAME@ALIAS, which is"
            " converted first."
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(help="With models:/…: rows, as for `fleet convert`.")
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(help="With models:/…: the release's; else its number there, N.0.0."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="With models:/…: the model's name here; else as there.")
    ] = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="With models:/…: as for `fleet convert`.")
    ] = False,
    tracking_uri: TrackingUri = None,
    keys: Keys = None,
    passphrase_file: PassphraseFile = None,
    output: Output = None,
    openssf_key: Annotated[
        Path | None,
        typer.Option(
            help="EC key (PEM): also write an OpenSSF signature of the bundle's files, to BUNDLE.sig."
        ),
    ] = None,
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Register a bundle as a release, sign it, and publish what is new of its content."""
    if is_in_mlflow(bundle):
        path = _bundle_of(bundle, tracking_uri, name, version, data, trust_pickle)
    elif data or version or name or trust_pickle or tracking_uri:
        raise typer.BadParameter(
            "--data, --version, --name, --trust-pickle and --tracking-uri are for models:/…"
        )
    else:
        path = Path(bundle)
    opened = open_bundle(path)
    if openssf_key is not None:
        _write_signature(opened, openssf_key, path.with_name(f"{path.name}.sig"))
    with Client(controller) as client:
        pushed = send(client, path, opened, keys, passphrase_file, output=output)
    if json:
        show_json({**pushed.result.model_dump(mode="json"), "is_signed": pushed.is_signed})
        return
    _tell(pushed.result, is_news=pushed.done is not None, is_signed=pushed.is_signed)


def _bundle_of(
    uri: str,
    tracking_uri: str | None,
    name: str | None,
    version: str | None,
    data: Path | None,
    trust_pickle: bool,
) -> Path:
    """Make the bundle of a model in MLflow, in this folder; return it."""
    from .convert import convert_source

    if data is None:
        raise typer.BadParameter("is needed for models:/…", param_hint="--data")
    with source_of(uri, tracking_uri) as source:
        called, meant = name or source.name, version or source.version
        if not called:
            raise typer.BadParameter(
                f"is needed: devices can have no model called as {uri}", param_hint="--name"
            )
        report = convert_source(
            source,
            name=called,
            version=meant,
            data=data,
            output=Path(f"{called}-{meant}.bundle"),
            trust_pickle=trust_pickle,
        )
    say(f"wrote {report.output}")
    return report.output


@dataclass(frozen=True, slots=True)
class Pushed:
    """A bundle that the controller has; `done` is of its signature, None where that was there."""

    result: PushResult
    done: Done | None

    @property
    def is_signed(self) -> bool:
        """Whether nobody else's signature is lacking."""
        return self.done is None or self.done.is_complete


def send(
    client: Client,
    bundle: Path,
    opened: OpenedBundle,
    keys: Path | None,
    passphrase_file: Path | None,
    *,
    output: Path | None = None,
    may_make_key: bool = True,
) -> Pushed:
    """Register a bundle as a release, and sign it.

    Args:
        client: The controller.
        bundle: The file.
        opened: What is in it.
        keys: Folder of the keys.
        passphrase_file: What opens them.
        output: Where to write what others must sign too.
        may_make_key: Whether a model that has no key yet gets one here.

    Raises:
        PeerError: The controller refused it.
        ConfigError: A key is missing; `model_unsigned`: the model has none, and gets none here.
        TransferError: The controller does not answer.
    """
    name, version = opened.manifest.name, opened.manifest.version
    session = open_session(client, keys, passphrase_file)
    draft = session.draft()
    if name not in session.base.models:
        if not may_make_key:
            raise ConfigError(
                f"nobody signs for {name} yet",
                code="model_unsigned",
                hint=f"give it keys where those of `targets` are, once: `fleet keys team {name}"
                " FILE.pub`",
            )
        # Before anything is made: the model's key would stay behind unused.
        if output is None:
            session.require_role_keys(TARGETS)
        draft.add_model(name, [session.keys.make(model_role(name)).key])
    with _naming(bundle):
        release = draft.add_release(name, version, opened.files[MANIFEST])
    if output is None:
        session.require_keys(draft)
    result = _upload(client, bundle)
    if result.release.manifest != opened.manifest_digest:
        raise PeerError(
            f"the controller has another {name}:{version} than {bundle}", code="trust_mismatch"
        )
    is_signed = release == signed_before(session.base, name, version)
    done = None if is_signed else finish(session, draft, output, f"{name}-{version}")
    result.release.number = release.number
    return Pushed(result, done)


def open_bundle(path: Path) -> OpenedBundle:
    """Return the bundle in a file.

    Raises:
        BundleError: It is none.
    """
    try:
        if not path.is_file():
            path.stat()
            raise IsADirectoryError(21, "is no file")
        return read_bundle(path)
    except OSError as exc:
        raise BundleError(
            f"cannot read {path}: {exc.strerror}",
            code="bundle_unreadable",
            hint="`fleet convert` makes bundles",
        ) from exc
    except BundleError as exc:
        raise BundleError(f"{path}: {exc}", code=exc.code, hint=exc.hint) from exc


def _write_signature(opened: OpenedBundle, key: Path, path: Path) -> None:
    name = f"{opened.manifest.name}-{opened.manifest.version}"
    signature = sign_files(opened.files, name, key)
    try:
        write_durably(path, signature)
    except OSError as exc:
        raise StorageError(
            f"cannot write {path}: {exc.strerror}", code="output_unwritable"
        ) from exc
    say(f"wrote {path}, an OpenSSF signature of the bundle's files")


def _upload(client: Client, bundle: Path) -> PushResult:
    size = bundle.stat().st_size
    with _naming(bundle):
        return client.upload("/v1/bundles", _read(bundle, size), size, PushResult)


@contextlib.contextmanager
def _naming(bundle: Path) -> Iterator[None]:
    """Put the file's name before an error: the controller knows the upload, not what it is called."""
    try:
        yield
    except PeerError as exc:
        raise PeerError(f"{bundle}: {exc}", code=exc.code, hint=exc.hint) from exc


def _tell(result: PushResult, *, is_news: bool, is_signed: bool) -> None:
    release = result.release
    name = f"{release.model}:{release.version}"
    if result.is_new:
        typer.echo(
            f"pushed {name} ({in_bytes(release.bytes)}): {result.new_chunk_count} of "
            f"{release.chunk_count} chunks are new, {in_bytes(result.new_bytes)} to send"
        )
    elif not is_news:
        typer.echo(f"{name} was pushed before, with the same content")
    if is_news and is_signed:
        typer.echo(f"signed {name} as number {release.number} of {release.model}")
    if is_signed and (is_news or result.is_new):
        typer.echo(f"next: fleet rollout start {name}")


def list_releases(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    json: Json = False,
    controller: Controller = None,
) -> None:
    """List the releases of a model, newest first."""
    with Client(controller) as client:
        path = f"/v1/models/{given_name(model, what='model name')}/releases"
        releases = all_pages(client, path, Release, lambda release: release.version)
    if json:
        show_json([release.model_dump(mode="json") for release in releases])
        return
    show(
        [
            {
                "RELEASE": f"{release.model}:{release.version}",
                "PUSHED": ago(release.created_unix_ms),
                "SIZE": in_bytes(release.bytes),
                "CHUNKS": release.chunk_count,
                "ACTIVE ON": release.device_count,
                "ALIASES": " ".join(f"@{alias}" for alias in release.aliases),
                "SIGNED": "dead" if release.is_dead else release.number or "no",
                "MANIFEST": release.manifest[:12],
            }
            for release in releases
        ],
        empty="no release of this model",
    )


def show_release(
    release: Annotated[str, typer.Argument(help="NAME:VERSION, or NAME@ALIAS.")],
    json: Json = False,
    controller: Controller = None,
) -> None:
    """Show a release: what it is called by, what is signed of it, where it serves."""
    name, version = given_release_or_alias(release)
    with Client(controller) as client:
        found = client.get(f"/v1/releases/{name}/{version}", Release)
    if json:
        show_json(found.model_dump(mode="json"))
        return
    show_facts(
        [
            ("release", f"{found.model}:{found.version}"),
            ("manifest", found.manifest),
            ("aliases", " ".join(f"@{alias}" for alias in found.aliases)),
            ("pushed", ago(found.created_unix_ms)),
            ("size", f"{in_bytes(found.bytes)} in {counted(found.chunk_count, 'chunk')}"),
            ("signed", "dead" if found.is_dead else found.number or "no"),
            ("active on", counted(found.device_count, "device")),
        ]
    )


def keep_run(
    release: Annotated[str, typer.Argument(help="NAME:VERSION, or NAME@ALIAS.")],
    record: Annotated[
        Path, typer.Argument(help="The run.json of the pipeline; or JSON of the API's form.")
    ],
    controller: Controller = None,
) -> None:
    """Keep how a release was made, for ever; `fleet lineage` shows it."""
    name, version = given_release_or_alias(release)
    body = _read_record(record)
    with Client(controller) as client:
        kept = client.put(f"/v1/releases/{name}/{version}/run", body, StoredRun)
    typer.echo(f"{release} was made by run {kept.run.run} of {kept.run.pipeline}")


def _read_record(path: Path) -> RunRecord:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_RECORD_BYTES + 1)
        parse_json(raw, max_bytes=MAX_RECORD_BYTES)
        if (record := parse_record(raw)) is not None:
            return to_tell(record)
        return RunRecord.model_validate_json(raw)
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}", code="run_unreadable") from exc
    except ValidationError as exc:
        raise PeerError(f"{path}: {first_fault(exc)}", code="run_invalid") from exc


def list_models(json: Json = False, controller: Controller = None) -> None:
    """List the models."""
    with Client(controller) as client:
        models = client.list("/v1/models", Model)
    if json:
        show_json([model.model_dump(mode="json") for model in models])
        return
    show(
        [
            {"MODEL": m.name, "RELEASES": m.release_count, "NEWEST": m.newest_version}
            for m in models
        ],
        empty="no model yet; `fleet push FILE.bundle` brings one",
    )


def _read(path: Path, size: int) -> Iterator[bytes]:
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    is_shown = sys.stderr.isatty()
    # Gone at the end: what became of it is said in words.
    bar = Progress(*columns, disable=not is_shown, transient=True)
    with path.open("rb") as file, bar as progress:
        task = progress.add_task(path.name, total=size)
        while block := file.read(READ_BYTES):
            yield block
            progress.advance(task, len(block))
