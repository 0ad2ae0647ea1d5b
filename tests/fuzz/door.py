"""A door: one place at which bytes from outside become a value, and what is claimed of it.

- `read` gives a value or raises one of `refusals`, and nothing else;
- it takes a bounded number of steps: lines of Python per byte, not seconds, which depend on the machine;
- what it accepts, `write` says again, and that is read as the same value.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random  # noqa: TID251 - seeded, and the seed is printed
from typing import Any

STEPS_FREE = 20_000
STEPS_PER_BYTE = 120
"""TOML and tar are read in pure Python. The most met is 40 lines a byte; a thousand bytes that took
time by their square would take a hundred times as many."""


class Refused(Exception):  # noqa: N818 - says what became of a payload
    """For doors that refuse without an error: by None, or by a status."""


@dataclass(frozen=True)
class Door:
    """See the module.

    Attributes:
        name: Unique, and for people.
        read: From bytes to a value.
        refusals: What it may raise.
        sample: A payload as the other side would write it, by chance.
        write: Back to bytes; None where the value cannot be written.
        modules: Where in the sources the bytes are parsed.
        repaired: Makes checksums right again, so that mutants get past them.
        weight: Share of the examples; less where each costs more.
    """

    name: str
    read: Callable[[bytes], Any]
    refusals: tuple[type[Exception], ...]
    sample: Callable[[Random], bytes]
    write: Callable[[Any], bytes] | None
    modules: tuple[str, ...]
    repaired: Callable[[bytes], bytes] | None = None
    weight: float = 1.0
    same: Callable[[Any, Any], bool] = field(default=lambda one, other: bool(one == other))


def try_door(door, payload):
    """Check all claims of a door on one payload; return whether it was accepted."""
    steps, value = _stepped(door, payload)
    most = STEPS_FREE + STEPS_PER_BYTE * len(payload)
    assert steps <= most, f"{steps} lines of Python for {len(payload)} bytes"
    return _is_said_again(door, value)


def try_uncounted(door, payload):
    """Check all claims but that of the steps, which libFuzzer makes with a clock of its own."""
    try:
        value = door.read(payload)
    except (*door.refusals, Refused) as exc:
        value = _No(exc)
    return _is_said_again(door, value)


def _is_said_again(door, value):
    if isinstance(value, _No):
        return False
    if door.write is not None:
        again = door.write(value)
        assert door.same(door.read(again), value), f"reads {again[:500]!r} as another value"
    return True


@dataclass(frozen=True)
class _No:
    error: Exception


def _stepped(door, payload):
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        value = door.read(payload)
    except (*door.refusals, Refused) as exc:
        value = _No(exc)
    finally:
        sys.settrace(before)
    return count, value
