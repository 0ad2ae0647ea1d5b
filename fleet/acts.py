"""What is being done through the API right now, and by whom, so that it is stored with its effect.

A request that may change something opens an act; the first transaction that is committed inside of
it carries the act's row of the audit log. So there is no change without its row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from fleet.core.audit import Outcome, Row

MAX_SUBJECT_CHARS: Final = 300


@dataclass(slots=True)
class Act:
    """See `fleet.core.audit.Row`. `is_noted` once its row is committed."""

    who: str
    what: str
    at_unix_ms: int
    subject: str = ""
    is_noted: bool = False

    def row(self, outcome: Outcome, code: str = "") -> Row:
        """Return what the audit log says of it once it has ended.

        Without NUL, which a path may have and PostgreSQL does not keep: the row's digest is over what
        is stored.
        """
        what, subject = (text.replace("\0", "\ufffd") for text in (self.what, self.subject))
        return Row(self.at_unix_ms, self.who, what, subject, outcome, code)


_CURRENT: ContextVar[Act | None] = ContextVar("act", default=None)


@contextmanager
def doing(act: Act) -> Iterator[Act]:
    """Let what runs inside, in worker threads too, be this act."""
    token = _CURRENT.set(act)
    try:
        yield act
    finally:
        _CURRENT.reset(token)


def current() -> Act | None:
    """Return the act under way."""
    return _CURRENT.get()


def about(subject: str) -> None:
    """Say what the act under way is done to, before it is done."""
    if (act := _CURRENT.get()) is not None:
        act.subject = subject[:MAX_SUBJECT_CHARS]
