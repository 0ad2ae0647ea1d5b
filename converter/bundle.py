"""Writing the bundle: equal content gives equal bytes, and a failure leaves nothing behind."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from wire.errors import StorageError
from wire.manifest import (
    BASELINE,
    GOLDEN,
    MANIFEST,
    MODEL,
    PARITY,
    ArtifactEntry,
    Manifest,
    digest_of,
)

_MEDIA_TYPES: Final = {
    MODEL: "application/onnx",
    GOLDEN: "application/x-npz",
    BASELINE: "application/json",
    PARITY: "application/json",
}


def describe_files(files: Mapping[str, bytes]) -> tuple[ArtifactEntry, ...]:
    """Return the manifest's entries for these files."""
    return tuple(
        ArtifactEntry(
            path=path, sha256=digest_of(data), bytes=len(data), media_type=_MEDIA_TYPES[path]
        )
        for path, data in sorted(files.items())
    )


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> tuple[str, int]:
    """Write the bundle; return the manifest's digest and the file's size in bytes.

    The file appears whole or not at all: it is written beside its place, synced and renamed.

    Raises:
        StorageError: `output_unwritable`.
    """
    raw = manifest.model_dump_json(exclude_none=True).encode()
    archive = _tar({MANIFEST: raw, **dict(sorted(files.items()))})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(archive)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as exc:
        raise StorageError(
            f"cannot write {path}: {exc.strerror}",
            code="output_unwritable",
            hint="choose another --output",
        ) from exc
    finally:
        temporary.unlink(missing_ok=True)
    return digest_of(raw), len(archive)


def _tar(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)  # owner, group and time are 0 by default
            info.size = len(data)
            info.mode = 0o644
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
