"""What parameters are searched: from `[tune] search` of a project, or from a Katib Experiment."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wire.errors import ConfigError

MAX_PARAMETERS: Final = 64
MAX_CHOICES: Final = 1000
_NAME: Final = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
_RANGE_KEYS: Final = frozenset({"low", "high", "log", "step", "type"})
_HOW: Final = "write {low = 0.01, high = 10, log = true}, {low = 1, high = 9} or {choices = [1, 2]}"

Value = bool | int | float | str
Parameters = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers between two ends, both included.

    Attributes:
        low: The least.
        high: The greatest.
        is_whole: Whether only whole numbers are searched.
        is_log: Whether each factor is as likely as the next, instead of each difference.
        step: From `low` on, or None; never with `is_log`.
    """

    low: float
    high: float
    is_whole: bool = False
    is_log: bool = False
    step: float | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Values without an order."""

    values: tuple[Value, ...]


Space = Mapping[str, Range | Choice]


def read_space(
    search: Mapping[str, object], where: str = "[tune] search"
) -> dict[str, Range | Choice]:
    """Return the search space that a table declares, in its order.

    Numbers are whole where both ends are written as whole numbers, or by `type = "int"`.

    Args:
        search: By parameter: `{low, high, log, step, type}` or `{choices}`.
        where: The table's place, for errors.

    Raises:
        ConfigError: `search_invalid`, naming the key and what to do.
    """
    if not 1 <= len(search) <= MAX_PARAMETERS:
        raise _invalid(where, f"declare 1 to {MAX_PARAMETERS} parameters")
    return {name: _parameter(f"{where}.{name}", name, given) for name, given in search.items()}


def _parameter(where: str, name: str, given: object) -> Range | Choice:
    if not _NAME.fullmatch(name):
        raise _invalid(where, "the name must be one of Python's, of 64 letters at most")
    if not isinstance(given, Mapping):
        raise _invalid(where, "must be a table")
    keys = set(given)
    if "choices" in keys:
        if extra := sorted(keys - {"choices"}):
            raise _invalid(f"{where}.{extra[0]}", "does not go with choices")
        return make_choice(where, given["choices"])
    if extra := sorted(str(key) for key in keys - _RANGE_KEYS):
        raise _invalid(f"{where}.{extra[0]}", "unknown key")
    if missing := sorted({"low", "high"} - keys):
        raise _invalid(where, f"{missing[0]} is missing")
    kind = given.get("type")
    if kind not in (None, "int", "float"):
        raise _invalid(f"{where}.type", "must be int or float")
    is_log = given.get("log", False)
    if not isinstance(is_log, bool):
        raise _invalid(f"{where}.log", "must be true or false")
    low, high = (_number(f"{where}.{key}", given[key]) for key in ("low", "high"))
    is_whole = kind == "int" if kind else isinstance(low, int) and isinstance(high, int)
    step = _number(f"{where}.step", given["step"]) if given.get("step") is not None else None
    return make_range(where, low, high, is_whole=is_whole, is_log=is_log, step=step)


def make_range(
    where: str, low: float, high: float, *, is_whole: bool, is_log: bool, step: float | None
) -> Range:
    """Return a range whose ends can be reached.

    Raises:
        ConfigError: `search_invalid`.
    """
    if low >= high:
        raise _invalid(where, "low must be below high")
    if is_whole and any(x != int(x) for x in (low, high, step or 1)):
        raise _invalid(where, "whole numbers have whole ends, and a whole step")
    if is_log and low <= 0:
        raise _invalid(f"{where}.low", "must be above 0 with log = true")
    if is_log and step is not None:
        raise _invalid(f"{where}.step", "does not go with log = true")
    if step is not None:
        if not 0 < step <= high - low:
            raise _invalid(f"{where}.step", "must be above 0, and at most high - low")
        # The last step that is within; a rounding error must not cost one.
        high = low + math.floor((high - low) / step + 1e-9) * step
    if is_whole:
        return Range(int(low), int(high), is_whole, is_log, int(step) if step else None)
    return Range(float(low), float(high), is_whole, is_log, float(step) if step else None)


def make_choice(where: str, values: object) -> Choice:
    """Return values to choose from.

    Raises:
        ConfigError: `search_invalid`.
    """
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise _invalid(f"{where}.choices", "must be a list")
    if not 1 <= len(values) <= MAX_CHOICES:
        raise _invalid(f"{where}.choices", f"must have 1 to {MAX_CHOICES} values")
    for value in values:
        is_finite = not isinstance(value, float) or math.isfinite(value)
        if not isinstance(value, (bool, int, float, str)) or not is_finite:
            raise _invalid(f"{where}.choices", "must be numbers, strings, true or false")
    if len({(type(value), value) for value in values}) != len(values):
        raise _invalid(f"{where}.choices", "has a value twice")
    return Choice(tuple(values))


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _invalid(where, "must be a number")
    if not math.isfinite(value) or abs(value) > 1e300:
        raise _invalid(where, "must be finite")
    return value


def _invalid(where: str, why: str) -> ConfigError:
    return ConfigError(f"{where}: {why}", code="search_invalid", hint=_HOW)
