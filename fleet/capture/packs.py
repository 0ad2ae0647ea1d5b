"""Reads packs of captured rows. They come from devices, which may be anybody's: nothing is believed.

Nothing is unpickled, nothing unpacks to more than `MAX_PACK_PLAIN_BYTES`, and what is there is exactly what
the head names, in the types and the number of rows that it says.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wire import codec
from wire.errors import PeerError
from wire.messages import MAX_INTEGER
from wire.packs import (
    AT,
    CHAR_BYTES,
    HEAD,
    ID,
    INPUT,
    MAX_DIMENSIONS,
    MAX_ID_CHARS,
    MAX_PACK_BYTES,
    MAX_PACK_PLAIN_BYTES,
    MAX_TEXT_CHARS,
    NUMBER_TYPES,
    OUTPUT,
    SCORE,
    PackGroup,
    PackHead,
)

Array = npt.NDArray[Any]

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_NPY_HEADER_BYTES: Final = 512
_TYPES: Final = frozenset(np.dtype(kind) for kind in NUMBER_TYPES.values())
_LAST_CHARACTER: Final = 0x10FFFF
_HALVES: Final = (0xD800, 0xDFFF)
"""Of characters: JSON can name them one by one, and no text can hold them."""
_UNKNOWN: Final = 0xFFFD


@dataclass(frozen=True, slots=True)
class GroupRows:
    """The rows of one group, in the order in which they were answered.

    Attributes:
        group: What the head says of them.
        at_unix_ms: When each was answered, by the device's clock; shape (n_rows,).
        ids: Of their requests, the same shape.
        scores: Their highest class probabilities or NaN, the same shape.
        inputs, outputs: Tensors by name, each of shape (n_rows, …).
    """

    group: PackGroup
    at_unix_ms: Array
    ids: Array
    scores: Array
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class PackRows:
    """A whole pack."""

    head: PackHead
    groups: tuple[GroupRows, ...]

    @property
    def row_count(self) -> int:
        """How many rows it has."""
        return sum(rows.group.row_count for rows in self.groups)


def read_pack(body: bytes) -> PackRows:
    """Return what a pack holds.

    Raises:
        PeerError: `capture_invalid`.
    """
    if len(body) > MAX_PACK_BYTES:
        raise _invalid(f"it has {len(body)} bytes, {MAX_PACK_BYTES} at most are taken")
    try:
        members = _members(body)
        head = codec.decode(PackHead, members.pop(HEAD), max_bytes=MAX_HEAD_BYTES)
        groups = tuple(_group(number, group, members) for number, group in enumerate(head.groups))
    except PeerError as exc:
        raise _invalid(str(exc)) from exc
    except Exception as exc:  # a damaged archive raises whatever its content provokes
        raise _invalid(f"it is no archive of plain arrays: {exc}") from exc
    if members:
        raise _invalid(f"it holds {min(members)!r}, which its head does not name")
    return PackRows(head, groups)


def _invalid(why: str) -> PeerError:
    return PeerError(f"the pack is refused: {why}"[:300], code="capture_invalid")


def _members(body: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        found = archive.infolist()
        # What the directory says is a cap: the reader stops there.
        if sum(member.file_size for member in found) > MAX_PACK_PLAIN_BYTES:
            raise _invalid(f"it unpacks to more than {MAX_PACK_PLAIN_BYTES} bytes")
        members = {}
        for member in found:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _invalid("it is packed in another way than deflate")
            if member.filename in members:
                raise _invalid(f"it holds {member.filename!r} twice")
            members[member.filename] = archive.read(member)
    return members


def _group(number: int, group: PackGroup, members: dict[str, bytes]) -> GroupRows:
    def take(name: str) -> Array:
        return _array(members.pop(f"{number}/{name}.npy"), group.row_count)

    for names in (group.inputs, group.outputs):
        if len(set(names)) != len(names):
            raise _invalid("it names a tensor twice")
    at, ids, scores = take(AT), take(ID), take(SCORE)
    is_flat = at.ndim == ids.ndim == scores.ndim == 1
    if not is_flat or at.dtype != "<i8" or scores.dtype != "<f8" or ids.dtype.kind != "U":
        raise _invalid("times, ids or scores are of other types")
    if at.min() < 0 or at.max() > MAX_INTEGER or ids.dtype.itemsize > CHAR_BYTES * MAX_ID_CHARS:
        raise _invalid("a time or an id cannot be")
    if not ((np.isnan(scores)) | ((scores >= 0) & (scores <= 1))).all():
        raise _invalid("a score is no probability")
    return GroupRows(
        group,
        at,
        ids,
        scores,
        {name: take(f"{INPUT}-{place}") for place, name in enumerate(group.inputs)},
        {name: take(f"{OUTPUT}-{place}") for place, name in enumerate(group.outputs)},
    )


def _array(data: bytes, row_count: int) -> Array:
    """Return an array of so many rows from a `.npy` file of format 1.0."""
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise _invalid("an array is of another format than 1.0")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(
        file, max_header_size=MAX_NPY_HEADER_BYTES
    )
    is_text = dtype.kind == "U" and 0 < dtype.itemsize <= CHAR_BYTES * MAX_TEXT_CHARS
    is_known = dtype in _TYPES or (is_text and dtype.str.startswith("<"))
    is_shaped = (
        not is_fortran
        and 1 <= len(shape) <= 1 + MAX_DIMENSIONS
        and shape[0] == row_count
        and all(isinstance(size, int) and size >= 0 for size in shape)
    )
    if not is_known or not is_shaped:
        raise _invalid(f"an array of type {dtype} and shape {shape}")
    rest = data[file.tell() :]
    if prod(shape) * dtype.itemsize != len(rest):
        raise _invalid("an array is longer or shorter than its shape")
    if dtype.kind == "b" and rest.strip(b"\0\1"):
        raise _invalid("a truth value is neither 0 nor 1")
    if is_text:
        rest = _characters(rest)
    return np.frombuffer(rest, dtype).reshape(shape)


def _characters(data: bytes) -> bytes:
    """Return characters in UTF-32 with what is none of them replaced."""
    points = np.frombuffer(data, "<u4")
    is_none = (points > _LAST_CHARACTER) | ((points >= _HALVES[0]) & (points <= _HALVES[1]))
    return np.where(is_none, np.uint32(_UNKNOWN), points).astype("<u4").tobytes()
