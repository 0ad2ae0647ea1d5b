"""Content-defined chunking: equal stretches of two versions give equal chunks, wherever they lie.

A boundary is where a rolling sum over the last `WINDOW` bytes, each mapped through a fixed random
table, has its highest `MASK_BITS` bits zero. The sum depends on those bytes alone, so an insertion
moves the boundaries after it along with the content. `docs/decisions/0003-own-chunker.md` says why
this is not a library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from wire.content import MAX_CHUNK_BYTES
from wire.manifest import digest_of

WINDOW: Final = 64
MIN_BYTES: Final = 8 * 1024
MASK_BITS: Final = 15
"""Boundaries 32 KiB apart on average; with the minimum and the cap, chunks average 31 KiB."""
_BLOCK: Final = 4 * 1024 * 1024
"""Bytes worked on at once: about 64 MB of temporary arrays, whatever the file's size."""

_TABLE: Final = np.random.Generator(np.random.PCG64(20_240_426)).integers(
    0, 2**32, size=256, dtype=np.uint32
)
"""Changing it, the window or the bits changes all boundaries: nothing breaks, but the next version
of every model travels in full once."""


@dataclass(frozen=True, slots=True)
class CutBundle:
    """A bundle as content.

    Attributes:
        index_digest: Names the index; all else follows from it.
        chunks: Digest to plain bytes, those of the index included.
        files: Path to its chunks in order, as digest and plain length.
    """

    index_digest: str
    chunks: dict[str, bytes]
    files: dict[str, list[tuple[str, int]]]


def cut(data: bytes) -> list[bytes]:
    """Return `data` in chunks of at most `MAX_CHUNK_BYTES`; none for empty data.

    Deterministic. All but the last have at least `MIN_BYTES`.
    """
    pieces: list[bytes] = []
    start = 0
    for boundary in _boundaries(data):
        while boundary - start > MAX_CHUNK_BYTES:
            pieces.append(data[start : start + MAX_CHUNK_BYTES])
            start += MAX_CHUNK_BYTES
        if boundary - start >= MIN_BYTES:
            pieces.append(data[start:boundary])
            start = boundary
    while start < len(data):
        pieces.append(data[start : start + MAX_CHUNK_BYTES])
        start += MAX_CHUNK_BYTES
    return pieces


def cut_bundle(files: Mapping[str, bytes]) -> CutBundle:
    """Return a bundle's files as chunks with their index (`wire.content` has the format)."""
    chunks: dict[str, bytes] = {}
    pairs: dict[str, list[tuple[str, int]]] = {}
    for path in sorted(files):
        pairs[path] = _keep(chunks, files[path])
    index = _encode({"v": 1, "files": pairs})
    if len(index) > MAX_CHUNK_BYTES:
        index = _encode({"v": 1, "index": _keep(chunks, index)})
    digest = digest_of(index)
    chunks[digest] = index
    return CutBundle(digest, chunks, pairs)


def _keep(chunks: dict[str, bytes], data: bytes) -> list[tuple[str, int]]:
    pairs = []
    for piece in cut(data):
        digest = digest_of(piece)
        chunks[digest] = piece
        pairs.append((digest, len(piece)))
    return pairs


def _encode(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def _boundaries(data: bytes) -> Iterator[int]:
    """Return the positions after which a chunk may end, ascending."""
    content = np.frombuffer(data, dtype=np.uint8)
    for start in range(0, len(content), _BLOCK):
        # Reach back, so that a boundary does not depend on where the block began.
        first = max(0, start - WINDOW)
        sums = np.cumsum(_TABLE[content[first : start + _BLOCK]], dtype=np.uint32)
        if sums.size <= WINDOW:
            continue
        rolling = sums[WINDOW:] - sums[:-WINDOW]
        hits = np.flatnonzero((rolling >> np.uint32(32 - MASK_BITS)) == 0)
        yield from (int(hit) + first + WINDOW + 1 for hit in hits)
