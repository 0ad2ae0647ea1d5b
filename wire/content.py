"""Content as chunks: an index names them, each chunk proves itself by its digest.

The index of a bundle is JSON, `{"v":1,"files":{path:[[sha256,bytes],…],…}}`. It needs no trust:
every file that it leads to is checked against the manifest, and the manifest against the digest
in the desired state. An index longer than one chunk is itself cut, and
`{"v":1,"index":[[sha256,bytes],…]}` leads to its pieces; there is no third level.

A chunk travels as one zstd frame of at most `MAX_CHUNK_BYTES` plain bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Final, NamedTuple

import zstandard
from pydantic import ConfigDict, Field, ValidationError

from .codec import MAX_MESSAGE_BYTES, parse_json
from .errors import PeerError
from .ids import Digest
from .messages import Part

MAX_CHUNK_BYTES: Final = 60 * 1024
"""So that a chunk, compressed or not, fits the smallest retained limit met (64 KiB)."""
MAX_INDEX_BYTES: Final = 16 * 1024 * 1024
"""About 230,000 chunks: 7 GB of content."""


class ChunkRef(NamedTuple):
    """A chunk's name and its plain length."""

    digest: str
    bytes: int


class _Entry(Part):
    model_config = ConfigDict(frozen=True)


_Pair = tuple[Digest, Annotated[int, Field(ge=1, le=MAX_CHUNK_BYTES)]]
_Path = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class Index(_Entry):
    """The top level: either the files, or the pieces of the index that holds them."""

    v: Annotated[int, Field(ge=1, le=1)] = 1
    files: dict[_Path, tuple[_Pair, ...]] | None = None
    index: tuple[_Pair, ...] | None = None

    def chunks_of(self, path: str) -> tuple[ChunkRef, ...]:
        """Return the chunks of one file in order; empty for an empty or unknown file."""
        return tuple(ChunkRef(*pair) for pair in (self.files or {}).get(path, ()))


def parse_index(payload: bytes) -> Index:
    """Return an index; exactly one of its `files` and `index` is set.

    Raises:
        PeerError: `index_invalid`.
    """
    try:
        parse_json(payload, max_bytes=MAX_INDEX_BYTES)
        index = Index.model_validate_json(payload)
    except (PeerError, ValidationError) as exc:
        raise PeerError(f"content index: {exc}"[:300], code="index_invalid") from exc
    if (index.files is None) == (index.index is None):
        raise PeerError("content index: needs either files or index", code="index_invalid")
    return index


def encode_chunk(plain: bytes) -> bytes:
    """Return the payload that carries `plain`: one zstd frame with its content size.

    Raises:
        PeerError: `chunk_too_large`.
    """
    payload = zstandard.ZstdCompressor(level=9, write_content_size=True).compress(plain)
    if len(plain) > MAX_CHUNK_BYTES or len(payload) > MAX_MESSAGE_BYTES:
        raise PeerError(f"a chunk of {len(plain)} bytes is over the cap", code="chunk_too_large")
    return payload


def decode_chunk(digest: str, payload: bytes) -> bytes:
    """Return the plain bytes of the chunk `digest`.

    A decompression bomb is stopped at `MAX_CHUNK_BYTES`, whatever its header promises.

    Raises:
        PeerError: `chunk_too_large`, `chunk_invalid` or `digest_mismatch`.
    """
    if len(payload) > MAX_MESSAGE_BYTES:
        raise PeerError("a chunk's payload is over the cap", code="chunk_too_large")
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=2**20).stream_reader(payload)
        plain = reader.read(MAX_CHUNK_BYTES + 1)
    except zstandard.ZstdError as exc:
        raise PeerError(f"chunk {digest[:12]}: {exc}", code="chunk_invalid") from exc
    if len(plain) > MAX_CHUNK_BYTES:
        raise PeerError(f"chunk {digest[:12]} unpacks beyond the cap", code="chunk_too_large")
    if hashlib.sha256(plain).hexdigest() != digest:
        raise PeerError(f"chunk {digest[:12]} is not what it claims", code="digest_mismatch")
    return plain


def offsets(chunks: Iterable[ChunkRef]) -> list[tuple[int, ChunkRef]]:
    """Return each chunk with its offset, in bytes, in the file that they make."""
    result: list[tuple[int, ChunkRef]] = []
    position = 0
    for chunk in chunks:
        result.append((position, chunk))
        position += chunk.bytes
    return result
