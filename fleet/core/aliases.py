"""A move of an alias: each notes what it came from, so that one step back is undo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MoveKind = Literal["set", "rollout", "rollback", "deleted"]


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One move of an alias.

    Attributes:
        model: The model's name.
        alias: The alias, without `@`.
        version: The release that it means from here on; None where it was deleted.
        manifest: That release's manifest digest.
        kind: By what.
        back_to: The number of the move that one step back returns to; None where there is none.
        moved_unix_ms: When.
        moved_by: Name of the token.
        why: In their words.
        id: Its number, 0 until it is stored.
    """

    model: str
    alias: str
    version: str | None
    manifest: str | None
    kind: MoveKind
    back_to: int | None
    moved_unix_ms: int
    moved_by: str
    why: str
    id: int = 0
