"""What other people's errors say, in one line that a terminal only shows."""

from __future__ import annotations


def first_line(exc: BaseException, limit: int = 300) -> str:
    """Return the first line of what `exc` says, or its type's name where it says nothing."""
    lines = str(exc).strip().splitlines()
    return plain(lines[0], limit) if lines else type(exc).__name__


def plain(text: str, limit: int = 300) -> str:
    """Return `text` without what is not printable, cut."""
    return "".join(c if c.isprintable() else " " for c in text[:limit])
