"""Content as chunks: an index names them, each chunk proves itself by its digest.

The index of a bundle is JSON, `{"v":1,"files":{path:[[sha256,bytes],…],…}}`. It needs no trust:
every file that it leads to is checked against the manifest, and the manifest against the digest
in the desired state. An index longer than one chunk is itself cut, and
`{"v":1,"index":[[sha256,bytes],…]}` leads to its pieces; there is no third level.

A chunk travels as one zstd frame of at most `MAX_CHUNK_BYTES` plain bytes. It is named by the
sha-256 of its plain bytes, so that its name does not depend on how it was compressed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, NamedTuple

import zstandard
from pydantic import Field, ValidationError

from .codec import MAX_MESSAGE_BYTES, first_fault, parse_json
from .errors import PeerError
from .ids import Digest
from .manifest import MAX_FILES
from .messages import Part

MAX_CHUNK_BYTES: Final = 60 * 1024
"""So that a chunk, compressed or not, fits the smallest retained limit met (64 KiB)."""
MAX_INDEX_BYTES: Final = 12 * 1024 * 1024
"""A file of 4 GiB in chunks of 31 KiB takes 10.5 MB: 140,000 chunks of 75 bytes each."""

MIN_BYTES_PER_MARK: Final = 16
MARKS_FREE: Final = 256
"""For what is around the chunks: at most 17 files, each with a name, and spaces nowhere."""


class ChunkRef(NamedTuple):
    """A chunk's name and its plain length."""

    digest: str
    bytes: int


_Pair = tuple[Digest, Annotated[int, Field(ge=1, le=MAX_CHUNK_BYTES)]]
# An index may hold millions of faults, each of which would cost a kilobyte: stop at the first.
_Pairs = Annotated[tuple[_Pair, ...], Field(fail_fast=True)]
_Path = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class Index(Part):
    """The top level: either the files, or the pieces of the index that holds them."""

    v: Literal[1] = 1
    files: dict[_Path, _Pairs] | None = None
    index: _Pairs | None = None

    def chunks_of(self, path: str) -> tuple[ChunkRef, ...]:
        """Return the chunks of one file in order; empty for an empty or unknown file."""
        return tuple(ChunkRef(*pair) for pair in (self.files or {}).get(path, ()))


def parse_index(payload: bytes) -> Index:
    """Return an index; exactly one of its `files` and `index` is set.

    Raises:
        PeerError: `index_invalid`.
    """
    try:
        _require_few_marks(payload)
        _require_few_files(parse_json(payload, max_bytes=MAX_INDEX_BYTES))
        index = Index.model_validate_json(payload, strict=True)
    except PeerError as exc:
        raise PeerError(f"content index: {exc}", code="index_invalid") from exc
    except ValidationError as exc:
        raise PeerError(f"content index: {first_fault(exc)}", code="index_invalid") from exc
    if (index.files is None) == (index.index is None):
        raise PeerError("content index: needs either files or index", code="index_invalid")
    if sum(length for _, length in index.index or ()) > MAX_INDEX_BYTES:
        raise PeerError("content index: its pieces are over the cap", code="index_invalid")
    return index


def _require_few_marks(payload: bytes) -> None:
    """Refuse what is little text and much structure, before it is parsed.

    A chunk has four marks in 75 bytes. An index of nothing but brackets would take thirty times its
    size in memory, on a device that may have little.
    """
    count = sum(payload.count(mark) for mark in (b"[", b"{", b",", b":"))
    if count > MARKS_FREE + len(payload) // MIN_BYTES_PER_MARK:
        raise PeerError("is not made of chunks", code="index_invalid")


def _require_few_files(parsed: Any) -> None:
    files = parsed.get("files") if isinstance(parsed, dict) else None
    if isinstance(files, dict) and len(files) > MAX_FILES + 1:  # and the manifest
        raise PeerError(f"names {len(files)} files", code="index_invalid")


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
        raise PeerError(f"chunk {digest[:12]}: payload is over the cap", code="chunk_too_large")
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
