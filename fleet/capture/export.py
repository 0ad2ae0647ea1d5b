"""Captured rows as one file of arrays, which `fleet convert --data` and any training program can read."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from wire.codec import parse_json
from wire.errors import ConfigError, PeerError, StorageError
from wire.packs import MAX_PACK_BYTES

from .packs import GroupRows, read_pack

Array = npt.NDArray[Any]

MAX_LINE_BYTES: Final = 4096


@dataclass(slots=True)
class Export:
    """Rows in the order in which they came.

    Attributes:
        columns: Name of each array, and its parts, one for each group of rows.
        row_count, device_count: How many they are, and of how many devices.
        left_out: Columns that some device keeps to itself.
    """

    columns: dict[str, list[Array]] = field(default_factory=dict)
    row_count: int = 0
    device_count: int = 0
    left_out: tuple[str, ...] = ()

    @classmethod
    def read(cls, pieces: Iterable[bytes]) -> Self:
        """Return the rows of packs as the controller streams them.

        Raises:
            PeerError: `answer_invalid`: the stream is none, or ends too soon; or as `read_pack`.
            ConfigError: `captures_differ`: rows of different looks make no one table.
        """
        made = cls()
        devices: set[str] = set()
        left_out: set[str] = set()
        for device, body in read_packs(pieces):
            for rows in read_pack(body).groups:
                made._add(device, rows)
                left_out.update(rows.group.left_out)
            devices.add(device)
        made.device_count, made.left_out = len(devices), tuple(sorted(left_out))
        return made

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            ConfigError: `captures_differ`.
            StorageError: `export_write`.
        """
        arrays = {name: _joined(name, parts) for name, parts in self.columns.items()}
        arrays["left_out"] = np.array(self.left_out, dtype=np.str_)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with part.open("xb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as exc:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise StorageError(f"cannot write {path}: {exc.strerror}", code="export_write") from exc

    def _add(self, device: str, rows: GroupRows) -> None:
        count = rows.group.row_count
        columns = {
            "device": np.full(count, device),
            "version": np.full(count, rows.group.version),
            "manifest": np.full(count, rows.group.manifest),
            "at_unix_ms": rows.at_unix_ms,
            "id": rows.ids,
            "score": rows.scores,
            **_named("X", "input", rows.inputs),
            **{f"answer.{name}": values for name, values in rows.outputs.items()},
        }
        if self.columns and columns.keys() != self.columns.keys():
            more = sorted(columns.keys() ^ self.columns.keys())
            raise _differ(f"some have {', '.join(more)}, others have not")
        for name, values in columns.items():
            self.columns.setdefault(name, []).append(values)
        self.row_count += count


def _named(alone: str, several: str, tensors: Any) -> dict[str, Array]:
    """Return the tensors by their names in the file: one alone is the table that programs look for."""
    if len(tensors) == 1:
        return {alone: next(iter(tensors.values()))}
    return {f"{several}.{name}": values for name, values in tensors.items()}


def _joined(name: str, parts: list[Array]) -> Array:
    shapes = {part.shape[1:] for part in parts}
    kinds = {part.dtype.kind if part.dtype.kind == "U" else part.dtype.str for part in parts}
    if len(shapes) != 1 or len(kinds) != 1:
        raise _differ(f"{name} has rows of {len(shapes)} shapes and {len(kinds)} types")
    return np.concatenate(parts)


def _differ(how: str) -> ConfigError:
    return ConfigError(
        f"the captured rows make no one table: {how}",
        code="captures_differ",
        hint="narrow them with --device, --match or --since",
    )


def read_packs(pieces: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """Return packs, each with its device, of what the controller streams.

    Raises:
        PeerError: `answer_invalid`: the stream is none, or ends too soon.
    """
    buffer, stream = bytearray(), iter(pieces)
    while True:
        while (end := buffer.find(b"\n", 0, MAX_LINE_BYTES)) < 0:
            if len(buffer) >= MAX_LINE_BYTES:
                raise _broken("a line is too long")
            piece = next(stream, None)
            if piece is None:
                if buffer:
                    raise _broken("it ends in the middle")
                return
            buffer += piece
        line = parse_json(bytes(buffer[:end]), max_bytes=MAX_LINE_BYTES)
        del buffer[: end + 1]
        device, size = _head(line)
        while len(buffer) < size:
            piece = next(stream, None)
            if piece is None:
                raise _broken("it ends in the middle")
            buffer += piece
        body = bytes(buffer[:size])
        del buffer[:size]
        yield device, body


def _head(line: Any) -> tuple[str, int]:
    match line:
        case {"device": str(device), "size_bytes": int(size)} if 0 <= size <= MAX_PACK_BYTES:
            return device, size
        case _:
            raise _broken(f"a line says {json.dumps(line)[:80]}")


def _broken(how: str) -> PeerError:
    return PeerError(f"the controller's answer is no stream of packs: {how}", code="answer_invalid")
