"""Captured rows, and the pack that they travel in: see `wire.packs`. Without numpy, as the supervisor is."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Final

from wire import codec
from wire.manifest import Datatype
from wire.packs import (
    AT,
    CHAR_BYTES,
    HEAD,
    ID,
    INPUT,
    MAX_GROUPS,
    MAX_PACK_BYTES,
    MAX_PACK_ROWS,
    NUMBER_TYPES,
    OUTPUT,
    SCORE,
    PackGroup,
    PackHead,
)

_NPY_MAGIC: Final = b"\x93NUMPY\x01\x00"
_NPY_ALIGNED_BYTES: Final = 64
"""NumPy's format 1.0: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html"""
_WRITTEN: Final = (1980, 1, 1, 0, 0, 0)
"""Every member's time, the first that a zip archive can have: equal rows make equal packs."""


@dataclass(frozen=True, slots=True)
class CaptureRules:
    """Which rows are captured once they are answered: see `[capture]` of the configuration.

    Attributes:
        sample: Share of all rows, 0 to 1.
        uncertain_below: Those whose highest class probability is below, too.
        leave_out: Names of input columns, or inputs, whose values are left out.
    """

    sample: float
    uncertain_below: float
    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RowTensor:
    """One row of a tensor.

    Attributes:
        name: As in the manifest.
        is_output: Whether the model answered it.
        datatype: Of its elements.
        width: Characters of each element, at least one; of texts only.
        shape: Of the row, without the dimension of the rows.
    """

    name: str
    is_output: bool
    datatype: Datatype
    width: int
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """How long the row is."""
        return prod(self.shape) * self.item_bytes

    @property
    def item_bytes(self) -> int:
        """How long an element is."""
        if self.datatype == "BYTES":
            return CHAR_BYTES * self.width
        return int(NUMBER_TYPES[self.datatype][2:])


@dataclass(frozen=True, slots=True)
class CapturedRow:
    """One row that was answered, with the answer.

    Attributes:
        model, version, manifest: What answered it.
        at_unix_ms: When.
        id: Of its request; empty without one.
        score: Its highest class probability; None where there is none.
        tensors: Its inputs and outputs.
        left_out: Columns whose values are not in it.
        data: The tensors' elements, little-endian, one tensor after the other.
    """

    model: str
    version: str
    manifest: str
    at_unix_ms: int
    id: str
    score: float | None
    tensors: tuple[RowTensor, ...]
    left_out: tuple[str, ...]
    data: bytes

    @property
    def is_whole(self) -> bool:
        """Whether its data is as long as its tensors say."""
        return len(self.data) == sum(tensor.size_bytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class Packed:
    """A pack, and how many of the rows given are in it: the first ones."""

    body: bytes
    row_count: int


def pack(rows: Sequence[CapturedRow], request: str, model: str, *, is_all: bool) -> Packed:
    """Return a pack of as many of the first rows as fit.

    Args:
        rows: Each at most `MAX_ROW_BYTES` long, so that one always fits.
        request: The request that they are for.
        model: Which they are of.
        is_all: Whether nothing comes after these rows.
    """
    count = min(len(rows), MAX_PACK_ROWS)
    while True:
        chosen = rows[:count]
        groups = _grouped(chosen)
        is_last = is_all and count == len(rows)
        if len(groups) <= MAX_GROUPS:
            body = _archive(request, model, groups, is_last=is_last)
            if len(body) <= MAX_PACK_BYTES or count <= 1:
                return Packed(body, count)
        count = max(1, count // 2)


def _grouped(rows: Iterable[CapturedRow]) -> list[list[CapturedRow]]:
    """Return the rows in groups of one look, all in the order in which they came."""
    groups: dict[object, list[CapturedRow]] = {}
    for look, alike in groupby(rows, _look):
        groups.setdefault(look, []).extend(alike)
    return list(groups.values())


def _look(row: CapturedRow) -> object:
    shapes = tuple((t.name, t.is_output, t.datatype, t.shape) for t in row.tensors)
    return row.manifest, row.version, shapes, row.left_out


def _archive(
    request: str, model: str, groups: Sequence[Sequence[CapturedRow]], *, is_last: bool
) -> bytes:
    head = PackHead(
        request=request,
        model=model,
        is_last=is_last,
        groups=tuple(
            PackGroup(
                version=rows[0].version,
                manifest=rows[0].manifest,
                row_count=len(rows),
                inputs=tuple(t.name for t in rows[0].tensors if not t.is_output),
                outputs=tuple(t.name for t in rows[0].tensors if t.is_output),
                left_out=rows[0].left_out,
            )
            for rows in groups
        ),
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        _write(archive, HEAD, codec.encode(head))
        for number, rows in enumerate(groups):
            for name, array in _arrays(rows):
                _write(archive, f"{number}/{name}.npy", array)
    return out.getvalue()


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _WRITTEN), data, zipfile.ZIP_DEFLATED)


def _arrays(rows: Sequence[CapturedRow]) -> Iterable[tuple[str, bytes]]:
    times = b"".join(struct.pack("<q", row.at_unix_ms) for row in rows)
    nan = float("nan")
    scores = b"".join(struct.pack("<d", nan if row.score is None else row.score) for row in rows)
    width = max(1, *(len(row.id) for row in rows))
    ids = b"".join(_padded(row.id.encode("utf-32-le"), width) for row in rows)
    yield AT, npy("<i8", (len(rows),), times)
    yield SCORE, npy("<f8", (len(rows),), scores)
    yield ID, npy(f"<U{width}", (len(rows),), ids)
    counts = {INPUT: 0, OUTPUT: 0}
    places = [0] * len(rows)
    for number, tensor in enumerate(rows[0].tensors):
        own = [row.tensors[number] for row in rows]
        parts = []
        for position, (row, mine) in enumerate(zip(rows, own, strict=True)):
            end = places[position] + mine.size_bytes
            parts.append(row.data[places[position] : end])
            places[position] = end
        side = OUTPUT if tensor.is_output else INPUT
        shape = (len(rows), *tensor.shape)
        if tensor.datatype == "BYTES":
            width = max(1, *(mine.width for mine in own))
            parts = [
                _widened(part, mine.width, width) for part, mine in zip(parts, own, strict=True)
            ]
            yield f"{side}-{counts[side]}", npy(f"<U{width}", shape, b"".join(parts))
        else:
            kind = NUMBER_TYPES[tensor.datatype]
            yield f"{side}-{counts[side]}", npy(kind, shape, b"".join(parts))
        counts[side] += 1


def npy(kind: str, shape: tuple[int, ...], data: bytes) -> bytes:
    """Return an array as a `.npy` file of format 1.0.

    Args:
        kind: Type of its elements, such as `<f4`.
        shape: Its dimensions.
        data: Its elements, in C order.
    """
    words = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({words}), }}"
    used = len(_NPY_MAGIC) + 2 + len(header) + 1
    header += " " * (-used % _NPY_ALIGNED_BYTES) + "\n"
    return _NPY_MAGIC + struct.pack("<H", len(header)) + header.encode() + data


def _widened(data: bytes, before: int, width: int) -> bytes:
    """Return texts of one width as texts of a larger one."""
    step = CHAR_BYTES * before
    return b"".join(
        _padded(data[start : start + step], width) for start in range(0, len(data), step)
    )


def _padded(text: bytes, width: int) -> bytes:
    return text.ljust(CHAR_BYTES * width, b"\0")
