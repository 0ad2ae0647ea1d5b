"""Bundles on disk and chunks on the wire, read without any of the project's own code."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import zstandard

MAX_CHUNK_BYTES = 60 * 1024


def bundle_facts(path: Path) -> dict[str, Any]:
    """Return the manifest's digest and each file's digest, as the bundle on disk has them."""
    with tarfile.open(path) as tar:
        files = {
            PurePosixPath(member.name).name: _sha256(tar.extractfile(member).read())  # type: ignore[union-attr]  # isfile() below
            for member in tar.getmembers()
            if member.isfile()
        }
    return {"manifest": files["manifest.json"], "files": files, "bytes": path.stat().st_size}


def unpack_chunks(published: Iterable[tuple[str, bytes]]) -> tuple[dict[str, bytes], list[Any]]:
    """Return the chunks that prove themselves, by digest, and a record of every chunk's topic.

    Args:
        published: Topic and payload of each publication.
    """
    plain: dict[str, bytes] = {}
    counts: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    for topic, payload in published:
        digest = topic.rpartition("/")[2]
        counts[digest] += 1
        sizes[digest] = len(payload)
        try:
            content = zstandard.ZstdDecompressor().decompress(
                payload, max_output_size=MAX_CHUNK_BYTES, allow_extra_data=False
            )
        except zstandard.ZstdError:
            continue
        if _sha256(content) == digest:
            plain[digest] = content
    records = [
        {"digest": d, "publishes": n, "bytes": sizes[d], "is_proven": d in plain}
        for d, n in sorted(counts.items())
    ]
    return plain, records


def reassemble(index: str, chunks: Mapping[str, bytes]) -> dict[str, str]:
    """Return the digest of each file that the index leads to, put together from `chunks`.

    A file with a missing chunk has the digest "incomplete".
    """
    top = json.loads(chunks.get(index, b"{}"))
    if pieces := top.get("index"):
        joined = _join(pieces, chunks)
        top = json.loads(joined) if joined is not None else {}
    result = {}
    for path, pieces in top.get("files", {}).items():
        content = _join(pieces, chunks)
        result[path] = "incomplete" if content is None else _sha256(content)
    return result


def _join(pieces: list[list[Any]], chunks: Mapping[str, bytes]) -> bytes | None:
    if any(digest not in chunks for digest, _ in pieces):
        return None
    return b"".join(chunks[digest] for digest, _ in pieces)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
