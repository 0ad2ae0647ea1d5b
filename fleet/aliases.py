"""Aliases: `digits@champion` for a release, moved by people and by rollouts that have finished.

One step back goes by the alias' own history, as undo does: after a step back, the next one goes
further. Every move stays on record.
"""

from __future__ import annotations

from typing import Final

from fleet import acts
from fleet.core.aliases import AliasMove, MoveKind
from fleet.core.states import Rollout
from fleet.store.journal import EventRow
from fleet.store.releases import ReleaseRow
from fleet.store.store import Tx
from wire.errors import PeerError

AT: Final = "@"
"""Before an alias, where a version may stand as well; no version begins with it."""


def resolve(tx: Tx, model: str, version: str) -> ReleaseRow:
    """Return the release that is meant by a version, or by `@` and an alias.

    Raises:
        PeerError: `unknown_release` or `unknown_alias`.
    """
    if version.startswith(AT):
        move = _standing(tx, model, version[len(AT) :])
        version = move.version or ""
    release = tx.releases.get(model, version)
    if release is None:
        raise PeerError(
            f"there is no release {model[:80]}:{version[:80]}",
            code="unknown_release",
            hint="push its bundle first; `fleet releases` lists what is there",
        )
    return release


def move_to(
    tx: Tx, model: str, alias: str, version: str, *, by: str, why: str, now_unix_ms: int
) -> AliasMove:
    """Have an alias mean a release; one that does already stays as it is.

    Raises:
        PeerError: `unknown_release` or `unknown_alias`.
    """
    acts.about(f"{model}@{alias} to {version}")
    release = resolve(tx, model, version)
    return _move(tx, release, alias, "set", by=by, why=why, now_unix_ms=now_unix_ms)


def delete(tx: Tx, model: str, alias: str, *, by: str, why: str, now_unix_ms: int) -> AliasMove:
    """Have an alias mean nothing any more; its history stays, and one step back undoes it.

    Raises:
        PeerError: `unknown_alias`.
    """
    acts.about(f"{model}@{alias}")
    old = _standing(tx, model, alias)
    move = AliasMove(model, alias, None, None, "deleted", old.id, now_unix_ms, by, why)
    return _add(tx, move, f"deleted, was {old.version}")


def step_back(tx: Tx, model: str, alias: str, *, by: str, why: str, now_unix_ms: int) -> AliasMove:
    """Have an alias mean what it did before.

    Raises:
        PeerError: `unknown_alias` or `alias_at_start`.
    """
    acts.about(f"{model}@{alias}")
    newest = tx.aliases.newest(model, alias)
    if newest is None:
        raise _unknown(model, alias)
    back = tx.aliases.move(newest.back_to) if newest.back_to is not None else None
    if back is None:
        raise PeerError(
            f"{model}@{alias} never meant anything else than {newest.version}",
            code="alias_at_start",
            hint=f"`fleet alias history {model}@{alias}` shows its moves; `fleet alias set` moves it",
        )
    move = AliasMove(
        model, alias, back.version, back.manifest, "rollback", back.back_to, now_unix_ms, by, why
    )
    was = newest.version or "deleted"
    return _add(tx, move, f"back to {back.version}, was {was}")


def wish(tx: Tx, rollout: Rollout, alias: str, by: str) -> None:
    """Note that an alias shall move when a rollout has finished.

    Raises:
        PeerError: `alias_partial`: it would leave matched devices out.
    """
    if rollout.phases[-1].share != "100%":
        raise PeerError(
            f"{AT}{alias} moves with a rollout to all: the last phase is {rollout.phases[-1].share}",
            code="alias_partial",
            hint="let --phases end with 100%, or move the alias by hand: `fleet alias set`",
        )
    tx.aliases.wish(rollout.id, alias, by)


def on_finished(tx: Tx, rollout: Rollout, now_unix_ms: int) -> None:
    """Move the alias that a rollout was to move, unless devices elsewhere shall serve another release."""
    asked = tx.aliases.wishes([rollout.id]).get(rollout.id)
    if asked is None:
        return
    alias, by = asked
    others = tx.states.others(rollout.model, rollout.release.manifest)
    if others:
        text = f"{AT}{alias} stays: {others} devices outside of {rollout.id} serve another release"
        tx.journal.note([EventRow("rollout", rollout.id, text)], now_unix_ms)
        return
    release = resolve(tx, rollout.model, rollout.release.version)
    why = f"{rollout.id} finished"
    _move(tx, release, alias, "rollout", by=by, why=why, now_unix_ms=now_unix_ms)


def _move(
    tx: Tx, release: ReleaseRow, alias: str, kind: MoveKind, *, by: str, why: str, now_unix_ms: int
) -> AliasMove:
    newest = tx.aliases.newest(release.model, alias)
    if newest is not None and newest.manifest == release.manifest:
        return newest
    is_anew = newest is None or newest.version is None
    move = AliasMove(
        release.model,
        alias,
        release.version,
        release.manifest,
        kind,
        None if newest is None or is_anew else newest.id,
        now_unix_ms,
        by,
        why,
    )
    was = "" if newest is None or is_anew else f", was {newest.version}"
    return _add(tx, move, f"is {release.version}{was}")


def _add(tx: Tx, move: AliasMove, text: str) -> AliasMove:
    why = f": {move.why}" if move.why else ""
    subject = f"{move.model}{AT}{move.alias}"
    tx.journal.note([EventRow("release", subject, f"{text}{why}")], move.moved_unix_ms)
    return tx.aliases.add(move)


def _standing(tx: Tx, model: str, alias: str) -> AliasMove:
    newest = tx.aliases.newest(model, alias)
    if newest is None or newest.version is None:
        raise _unknown(model, alias)
    return newest


def _unknown(model: str, alias: str) -> PeerError:
    return PeerError(
        f"there is no alias {model[:80]}{AT}{alias[:80]}",
        code="unknown_alias",
        hint="`fleet alias list` lists them; `fleet alias set MODEL@ALIAS VERSION` makes one",
    )
