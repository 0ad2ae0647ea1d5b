"""Writing the bundle: equal content gives equal bytes, and a failure leaves nothing behind."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from wire.errors import StorageError
from wire.manifest import (
    BASELINE,
    CARD,
    GOLDEN,
    MANIFEST,
    MODEL,
    PARITY,
    SCHEMA,
    ArtifactEntry,
    Manifest,
    digest_of,
    parse_manifest,
)

_MEDIA_TYPES: Final = {
    MODEL: "application/onnx",
    GOLDEN: "application/x-npz",
    BASELINE: "application/json",
    PARITY: "application/json",
    SCHEMA: "application/json",
    CARD: "text/markdown",
}


def describe_files(files: Mapping[str, bytes]) -> tuple[ArtifactEntry, ...]:
    """Return the manifest's entries for these files."""
    return tuple(
        ArtifactEntry(
            path=path, sha256=digest_of(data), bytes=len(data), media_type=_MEDIA_TYPES[path]
        )
        for path, data in sorted(files.items())
    )


def check_output(path: Path, inputs: Iterable[Path]) -> None:
    """Refuse a place that cannot be written to, or must not be, before any work is done.

    Raises:
        StorageError: `output_unwritable`.
    """
    try:
        if path.exists() and not path.is_file():
            raise _unwritable(path, "there is something else than a file")
        if not path.parent.is_dir():
            raise _unwritable(path, f"there is no directory {path.parent}")
        for other in inputs:
            if path.exists() and other.exists() and path.samefile(other):
                raise _unwritable(path, "it is what is to be converted")
    except OSError as exc:
        raise _unwritable(path, exc.strerror or str(exc)) from exc


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> tuple[str, int]:
    """Write the bundle; return the manifest's digest and the file's size in bytes.

    The file appears whole or not at all: it is written beside its place, synced and renamed.

    Raises:
        BundleError: `manifest_invalid`, when devices would refuse it.
        StorageError: `output_unwritable`.
    """
    raw = manifest.model_dump_json(exclude_none=True).encode()
    parse_manifest(raw)
    archive = _tar({MANIFEST: raw, **dict(sorted(files.items()))})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(archive)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            _sync_directory(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise _unwritable(path, exc.strerror or str(exc)) from exc
    return digest_of(raw), len(archive)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, why: str) -> StorageError:
    return StorageError(
        f"cannot write {path}: {why}", code="output_unwritable", hint="choose another --output"
    )


def _tar(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)  # owner, group and time are 0 by default
            info.size = len(data)
            info.mode = 0o644
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
