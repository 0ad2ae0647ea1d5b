"""Reading a `.bundle`: a plain tar of regular files, every one checked against the manifest."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import BundleError
from .manifest import MANIFEST, MAX_FILES, Manifest, digest_of, parse_manifest

MAX_BUNDLE_BYTES: Final = 2 * 1024**3
"""Held in memory while it is cut; larger models want a streaming reader."""
_HINT: Final = "make it again with `fleet convert`"


@dataclass(frozen=True, slots=True)
class OpenedBundle:
    """A bundle whose every byte agrees with its manifest; `files` includes `manifest.json`."""

    manifest: Manifest
    manifest_digest: str
    files: dict[str, bytes]


def read_bundle(path: Path) -> OpenedBundle:
    """Return the bundle in `path`.

    Raises:
        BundleError: `bundle_unreadable`, `bundle_incomplete`, `digest_mismatch` or
            `manifest_invalid`, each with a sentence that says what to do.
    """
    files = _read_files(path)
    if MANIFEST not in files:
        raise BundleError(
            f"this is no bundle: it has no {MANIFEST}", code="bundle_incomplete", hint=_HINT
        )
    manifest = _parsed(files[MANIFEST])
    expected = {entry.path for entry in manifest.files}
    present = set(files) - {MANIFEST}
    if missing := sorted(expected - present):
        raise BundleError(
            f"this bundle lacks {', '.join(missing)}", code="bundle_incomplete", hint=_HINT
        )
    if extra := sorted(present - expected):
        raise BundleError(
            f"this bundle holds files that its manifest does not name: {', '.join(extra)}"[:300],
            code="bundle_unreadable",
            hint=_HINT,
        )
    for entry in manifest.files:
        data = files[entry.path]
        if len(data) != entry.bytes or digest_of(data) != entry.sha256:
            raise BundleError(
                f"{entry.path} is not what the manifest says: it was changed",
                code="digest_mismatch",
                hint=_HINT,
            )
    return OpenedBundle(manifest, digest_of(files[MANIFEST]), files)


def _parsed(payload: bytes) -> Manifest:
    try:
        return parse_manifest(payload)
    except BundleError as exc:
        raise BundleError(str(exc), code=exc.code, hint=_HINT) from exc


def _read_files(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    total = 0
    try:
        # Mode "r:" takes a plain tar only: nothing here unpacks, so nothing can explode.
        with tarfile.open(path, mode="r:") as archive:
            for member in archive:
                _check_member(member, files)
                total += member.size
                if total > MAX_BUNDLE_BYTES:
                    raise _unreadable(f"it is over the cap of {MAX_BUNDLE_BYTES} bytes")
                content = archive.extractfile(member)
                data = content.read() if content is not None else b""
                if len(data) != member.size:
                    raise _unreadable("it is cut short")
                files[member.name] = data
    except FileNotFoundError as exc:
        raise BundleError(f"there is no {path}", code="bundle_unreadable") from exc
    except (tarfile.TarError, OSError, EOFError, ValueError) as exc:
        raise _unreadable(str(exc)) from exc
    if not files:
        raise _unreadable("it is empty")
    return files


def _check_member(member: tarfile.TarInfo, files: dict[str, bytes]) -> None:
    # Not isreg(): it takes sparse files too, whose few bytes can unpack to any number of zeros.
    is_plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.pax_headers
    if not is_plain or member.size < 0:
        raise _unreadable(f"{member.name!r} is no plain regular file")
    if "/" in member.name or "\\" in member.name or member.name.startswith("."):
        raise _unreadable(f"{member.name!r} is no plain file name")
    if member.name in files:
        raise _unreadable(f"{member.name!r} is there twice")
    if len(files) > MAX_FILES:
        raise _unreadable(f"it has more than {MAX_FILES} files")


def _unreadable(why: str) -> BundleError:
    return BundleError(
        f"this cannot be read as a bundle: {why}"[:300], code="bundle_unreadable", hint=_HINT
    )
