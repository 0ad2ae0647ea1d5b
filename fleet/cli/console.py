"""What commands print: tables on a terminal, plain lines on a pipe, JSON on request."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fleet.api.schemas import MAX_TAGS, Tags
from wire.errors import ModelfleetError, PeerError
from wire.ids import parse_alias, parse_name, parse_release, parse_release_or_alias

ERROR: Final = 1
HALTED: Final = 3
INCONCLUSIVE: Final = 4

_TAGS: Final = TypeAdapter(Tags)
_UNITS_S: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Match = Annotated[
    list[str] | None,
    typer.Option("--match", help="Only devices with this tag, KEY=VALUE; repeatable."),
]
Controller = Annotated[
    str | None,
    typer.Option(
        "--controller", help="Address of the API; else FLEET_CONTROLLER, else from fleet.toml."
    ),
]


def show(rows: Sequence[Mapping[str, object]], *, empty: str) -> None:
    """Print a table; `empty` says what to do when there is nothing to show.

    Args:
        rows: Column title to cell, the same titles in every row.
        empty: Printed instead of an empty table.
    """
    if not rows:
        typer.echo(empty)
        return
    titles = list(rows[0])
    if not sys.stdout.isatty():
        widths = [max(len(t), *(len(_cell(row[t])) for row in rows)) for t in titles]
        lines = [titles, *([_cell(row[t]) for t in titles] for row in rows)]
        for line in lines:
            typer.echo("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        # Text, not markup: cells may come from devices.
        table.add_row(*(Text(_cell(row[title])) for title in titles))
    Console().print(table)


def show_json(value: Any) -> None:
    """Print JSON."""
    typer.echo(json.dumps(value, indent=2))


def show_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print one fact a line, names aligned."""
    pairs = [(name, _cell(value)) for name, value in facts]
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        typer.echo(f"{name.ljust(width)}  {value}")


def say(text: str) -> None:
    """Print one line of progress to stderr, so that stdout stays data."""
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()


def say_error(exc: ModelfleetError) -> None:
    """Print an error and what to do about it."""
    sys.stderr.write(f"fleet: {printable(str(exc))}\n")
    if exc.hint:
        sys.stderr.write(f"  {printable(exc.hint)}\n")


def printable(text: str) -> str:
    """Return `text` without control characters: it may come from a device.

    Halves of characters go too: they stand for bytes in file names, and no terminal takes them.
    """
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "�", text)


def parse_seconds(text: str, *, option: str) -> float:
    """Return a duration such as 500ms, 10s, 5m, 1h in seconds.

    Raises:
        typer.BadParameter: Anything else.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?", text)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no duration; write it as 10s, 5m or 1h", param_hint=option
        )
    return float(found[1]) * _UNITS_S[found[2] or "s"]


def parse_tags(given: Iterable[str] | None, *, option: str) -> dict[str, str]:
    """Return KEY=VALUE arguments as a dictionary.

    Raises:
        typer.BadParameter: Anything else, or one key twice.
    """
    tags: dict[str, str] = {}
    for text in given or ():
        key, separator, value = text.partition("=")
        if not separator or not key or not value:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint=option)
        if key in tags:
            raise typer.BadParameter(f"{key!r} is given twice", param_hint=option)
        tags[key] = value
    return checked_tags(tags, option=option)


def checked_tags(tags: Mapping[str, str], *, option: str) -> dict[str, str]:
    """Return `tags` if a device can carry them.

    Raises:
        typer.BadParameter: A key or a value has other characters or is too long.
    """
    try:
        return _TAGS.validate_python(dict(tags))
    except ValidationError as exc:
        bad = [tag for tag in tags.items() if not _is_tag(*tag)]
        if not bad:
            text = f"a device can carry {MAX_TAGS} tags, these are {len(tags)}"
        else:
            text = (
                f"{printable('='.join(bad[0]))} cannot be a tag: use letters, digits, '.', '_' and"
                " '-', at most 32 for the key and 64 for the value"
            )
        raise typer.BadParameter(text, param_hint=option) from exc


def _is_tag(key: str, value: str) -> bool:
    try:
        _TAGS.validate_python({key: value})
    except ValidationError:
        return False
    return True


def given_name(text: str, *, what: str) -> str:
    """Return a name that was given as an argument.

    Raises:
        typer.BadParameter: It is none.
    """
    with _as_usage():
        return parse_name(text, what=what)


def given_release(text: str) -> tuple[str, str]:
    """Return name and version of a NAME:VERSION argument.

    Raises:
        typer.BadParameter: It is none.
    """
    with _as_usage():
        name, version = parse_release(text)
        return name, version


def given_release_or_alias(text: str) -> tuple[str, str]:
    """Return name and version of a NAME:VERSION argument, or name and @ALIAS of a NAME@ALIAS one.

    Raises:
        typer.BadParameter: It is none.
    """
    with _as_usage():
        name, version = parse_release_or_alias(text)
        return name, version


def given_alias(text: str) -> tuple[str, str]:
    """Return name and alias of a NAME@ALIAS argument.

    Raises:
        typer.BadParameter: It is none.
    """
    with _as_usage():
        return parse_alias(text)


@contextlib.contextmanager
def _as_usage() -> Iterator[None]:
    try:
        yield
    except PeerError as exc:
        raise typer.BadParameter("; ".join(filter(None, (str(exc), exc.hint)))) from exc


def parse_address(text: str, *, option: str) -> tuple[str, int]:
    """Return HOST:PORT in parts.

    Raises:
        typer.BadParameter: Anything else.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65_535:
        raise typer.BadParameter(f"{text!r} is not HOST:PORT", param_hint=option)
    return host.strip("[]"), int(port)


def at_time(unix_ms: int) -> str:
    """Return an instant to the second, by this machine's time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_ms / 1000))


def on_day(unix_ms: int) -> str:
    """Return the day of an instant, by this machine's time zone."""
    return time.strftime("%Y-%m-%d", time.localtime(unix_ms / 1000))


def ago(unix_ms: int | None) -> str:
    """Return how long ago a moment was, in words."""
    if unix_ms is None:
        return "never"
    seconds = max(0, int(time.time() - unix_ms / 1000))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def counted(count: int, noun: str) -> str:
    """Return a number of things in words: 1 device, 2 devices."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def in_bytes(count: float) -> str:
    """Return a size in words."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.2f} GB"


def confirm(question: str, *, is_sure: bool) -> None:
    """Ask before something that is felt in the field; without a terminal nobody can be asked.

    Raises:
        PeerError: `not_confirmed`.
    """
    if is_sure or not sys.stdin.isatty():
        return
    if not typer.confirm(question):
        raise PeerError("nothing was changed", code="not_confirmed")


def end_in_order() -> None:
    """Have a polite end clear up as an error does; what is ignored, as by nohup, stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else printable(str(value))
