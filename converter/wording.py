"""What other people's errors say, in one line."""

from __future__ import annotations


def first_line(exc: BaseException, limit: int = 300) -> str:
    """Return the first line of what `exc` says, or its type's name where it says nothing."""
    lines = str(exc).strip().splitlines()
    return " ".join(lines[0].split())[:limit] if lines else type(exc).__name__
