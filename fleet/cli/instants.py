"""Instants as people write them: `2026-11-24T14:10`, `14:10`, `tue 14:10`, `2h` (ago)."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

import typer

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_instant(text: str, now_unix_ms: int, *, option: str) -> int:
    """Return an instant in milliseconds of the Unix epoch, by this machine's time zone.

    Args:
        text: ISO 8601, which may name another zone; a time of day, the last one that was; the same
            after a day of the week; or how long ago, such as 90m.
        now_unix_ms: The time.
        option: What to name in an error.

    Raises:
        typer.BadParameter: Anything else, and what is still to come.
    """
    # Local times without a zone: Python adds that of the day they are on, summer time or not.
    now = datetime.fromtimestamp(now_unix_ms / 1000)  # noqa: DTZ006
    try:
        found = _ago(text, now) or _clock(text, now) or _iso(text)
        at_unix_ms = round(found.timestamp() * 1000) if found is not None else None
    except (ValueError, OverflowError, OSError):
        at_unix_ms = None
    if at_unix_ms is None or at_unix_ms < 0:
        raise typer.BadParameter(
            f"{text!r} is no time; write it as 2026-11-24T14:10, 14:10, tue 14:10, or 2h for two"
            " hours ago",
            param_hint=option,
        )
    if at_unix_ms > now_unix_ms:
        raise typer.BadParameter(f"{text!r} is still to come", param_hint=option)
    return at_unix_ms


def _ago(text: str, now: datetime) -> datetime | None:
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    return now - timedelta(seconds=int(found[1]) * _UNITS_S[found[2]]) if found else None


def _clock(text: str, now: datetime) -> datetime | None:
    found = re.fullmatch(r"(?:([A-Za-z]{3,9}) )?([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?", text)
    if found is None:
        return None
    hour, minute, second = int(found[2]), int(found[3]), int(found[4] or 0)
    then = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
    if found[1] is None:
        return then if then <= now else then - timedelta(days=1)
    then -= timedelta(days=(now.weekday() - DAYS.index(found[1][:3].lower())) % 7)
    return then if then <= now else then - timedelta(days=7)


def _iso(text: str) -> datetime:
    return datetime.fromisoformat(text)
