"""Protobuf text files: read with the line of a fault, and what a newer schema says is kept.

The library refuses a field that it does not know, or drops it. Here such a field is cut out before
the library reads, and put back into the same block when the message is written. Comments are not
kept, as TFDV keeps none.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from google.protobuf import json_format, text_format

from wire.errors import ConfigError

MAX_DEPTH: Final = 24
"""Blocks in blocks; a schema without structures has four."""
_SYMBOL: Final = re.compile(
    r"""\s*+(?:\#[^\n]*+\s*+)*+
    (?P<symbol>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[\w.+\-/]+|[{}<>\[\]:;,])""",
    re.VERBOSE,
)
_CLOSING: Final = {"{": "}", "<": ">", "[": "]"}

Place = tuple[tuple[str, str], ...]
"""Where a block is: for each level its field, and its name or else its number."""
M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Kept:
    """A field that is not known here, as it was written, and the block that it was in."""

    place: Place
    text: str


def read_text(path: Path, *, max_bytes: int) -> str:
    """Return what is in a text file.

    Raises:
        ConfigError: `text_unreadable`.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _unreadable(path, "it is no regular file")
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
        if len(raw) > max_bytes:
            raise _unreadable(path, f"it is larger than {max_bytes // 1024**2} MB")
        return raw.decode()
    except OSError as exc:
        raise _unreadable(path, exc.strerror or str(exc)) from exc
    except UnicodeDecodeError as exc:
        line = exc.object[: exc.start].count(b"\n") + 1
        raise _unreadable(path, f"line {line} is no UTF-8") from exc


def parse(text: str, message: M, *, shown: str) -> tuple[M, tuple[Kept, ...]]:
    """Return the message that a text says, and the fields in it that are not known.

    Args:
        text: Of a file.
        message: An empty one, which is filled.
        shown: The file's name, for errors.

    Raises:
        ConfigError: `text_invalid`, with file, line and column.
    """
    found: list[tuple[tuple[tuple[str, int], ...], int, int]] = []
    _Walk(text, shown, found).block(message.DESCRIPTOR, ())  # type: ignore[attr-defined]
    rest = list(text)
    for _, start, end in found:
        rest[start:end] = [char if char == "\n" else " " for char in text[start:end]]
    try:
        text_format.Parse("".join(rest), message)
    except text_format.ParseError as exc:
        raise _invalid(shown, exc.GetLine() or 0, str(exc).splitlines()[0]) from exc
    except (UnicodeError, ValueError, RecursionError) as exc:
        raise ConfigError(f"{shown}: {str(exc)[:200]}", code="text_invalid") from exc
    kept = (
        Kept(_place(message, numbers), text[start:end].rstrip()) for numbers, start, end in found
    )
    return message, tuple(kept)


def encode(message: Any, kept: tuple[Kept, ...] = ()) -> str:
    """Return a message as text, always the same for the same message, with what was kept.

    A field whose block is gone goes with it.
    """
    text: str = text_format.MessageToString(message, as_utf8=True)
    if not kept:
        return text
    ends: list[tuple[tuple[tuple[str, int], ...], int, int]] = []
    _Walk(text, "", [], ends).block(message.DESCRIPTOR, ())
    by_place = {_place(message, numbers): end for numbers, _, end in ends} | {(): len(text)}
    for field in sorted(kept, key=lambda f: by_place.get(f.place, -1), reverse=True):
        if field.place in by_place:
            at = by_place[field.place]
            line_start = text.rfind("\n", 0, at) + 1
            indent = "  " * len(field.place)
            text = f"{text[:line_start]}{indent}{field.text}\n{text[line_start:]}"
    return text


def as_json(message: Any) -> dict[str, Any]:
    """Return a message as what `json.dumps` takes, with the names that its fields have in text."""
    found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return found


class _Walk:
    """Goes through a text once, field by field."""

    def __init__(
        self,
        text: str,
        shown: str,
        unknown: list[tuple[tuple[tuple[str, int], ...], int, int]],
        blocks: list[tuple[tuple[tuple[str, int], ...], int, int]] | None = None,
    ) -> None:
        """Note unknown fields, and blocks where a list for them is given: place, start and end."""
        self._text, self._shown = text, shown
        self._unknown, self._blocks = unknown, blocks
        self._at = 0
        self._start = 0

    def block(self, descriptor: Any, place: tuple[tuple[str, int], ...], closing: str = "") -> None:
        """Walk the fields of a block, its end included."""
        counts: dict[str, int] = {}
        while (symbol := self._next()) and symbol != closing:
            if symbol in ";,":
                continue
            start = self._start
            field = descriptor.fields_by_name.get(symbol)
            is_extension = symbol == "["
            if is_extension:
                self._skip("]")
            number = counts.get(symbol, 0)
            counts[symbol] = number + 1
            inside = (*place, (symbol, number))
            message_type = field.message_type if field is not None else None
            is_whole = self._value(message_type, inside)
            is_name = re.fullmatch(r"[A-Za-z_]\w*", symbol) is not None
            if field is None and not is_extension and is_name and is_whole:
                self._unknown.append((place, start, self._at))

    def _value(self, message_type: Any, inside: tuple[tuple[str, int], ...]) -> bool:
        """Walk what follows a field's name; return whether it is well formed."""
        has_colon = self._peek() == ":"
        if has_colon:
            self._next()
        symbol = self._next()
        if symbol in ("{", "<"):
            if len(inside) > MAX_DEPTH:
                line = self._text.count("\n", 0, self._at) + 1
                raise _invalid(self._shown, line, f"blocks lie more than {MAX_DEPTH} deep")
            if message_type is None:
                return self._skip(_CLOSING[symbol])
            start = self._start
            self.block(message_type, inside, _CLOSING[symbol])
            if self._blocks is not None:
                self._blocks.append((inside, start, self._start))
            return True
        if symbol == "[":
            return self._skip("]") and has_colon
        if symbol[:1] in ("'", '"'):
            while self._peek()[:1] in ("'", '"') and self._peek():
                self._next()
        return has_colon and symbol not in ("", *"}>]:;,")

    def _skip(self, closing: str) -> bool:
        """Go behind what closes the block that was just opened; return whether there is one."""
        open_ones = [closing]
        while open_ones and (symbol := self._next()):
            if symbol in _CLOSING:
                open_ones.append(_CLOSING[symbol])
            elif symbol == open_ones[-1]:
                open_ones.pop()
        return not open_ones

    def _peek(self) -> str:
        found = _SYMBOL.match(self._text, self._at)
        return found["symbol"] if found else ""

    def _next(self) -> str:
        """Return the next symbol, "" at the end and where there is none: then the library says why."""
        found = _SYMBOL.match(self._text, self._at)
        if found is None:
            self._at = len(self._text)
            return ""
        self._at, self._start = found.end(), found.start("symbol")
        return found["symbol"]


def _place(message: Any, numbers: tuple[tuple[str, int], ...]) -> Place:
    """Return a place by names, so that it is found again when others were put before it."""
    place = []
    for field, number in numbers:
        inner = getattr(message, field)
        is_one = hasattr(inner, "DESCRIPTOR")
        message = inner if is_one else inner[min(number, len(inner) - 1)]
        named = getattr(message, "name", "")
        place.append((field, f"={named}" if named else str(number)))
    return tuple(place)


def _unreadable(path: Path, why: str) -> ConfigError:
    return ConfigError(f"cannot read {path}: {why}", code="text_unreadable")


def _invalid(shown: str, line: int, why: str) -> ConfigError:
    what = re.sub(r"^\d+:(\d+) : ", r"column \1: ", why)
    return ConfigError(f"{shown}, line {line}: {what[:200]}", code="text_invalid")
