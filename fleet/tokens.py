"""Tokens of the API: made, proven, revoked.

A token is 256 random bits behind a prefix by which scanners find it in places where it must not
be. Only its sha-256 is stored: a guess cannot be checked faster for knowing that, and a stolen
database opens nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from pathlib import Path
from typing import Final, NamedTuple

from fleet import acts
from fleet.acts import Act, doing
from fleet.core.rights import WHOLE_FLEET, Caller, Role, Scope, is_within
from fleet.durable import write_durably
from fleet.settings import MAX_TOKEN_CHARS, TOKEN_FILE_NAME
from fleet.store.store import Store, Tx
from fleet.store.tokens import TokenRow
from wire.errors import ConfigError, PeerError, StorageError

PREFIX: Final = "mft_"
TOKEN_BYTES: Final = 32
LOCAL: Final = "local"
"""In the audit log: a command on the controller's own machine, by who may write the store."""
FIRST_NAME: Final = "admin"


class Made(NamedTuple):
    """A token that was just made, and what is stored of it."""

    row: TokenRow
    token: str


def digest_of(token: str) -> str:
    """Return what is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def found(fleet_dir: Path, store: Store) -> Path | None:
    """Make the first administrator's token of a fleet that has none; return the file it is in.

    The file is written first: a crash between leaves a file that opens nothing and is written
    again, and never an administrator that nobody knows.

    Raises:
        ConfigError: `token_unwritable`.
    """
    with store.read() as tx:
        if tx.tokens.count():
            return None
    return _write_admin(fleet_dir, store, FIRST_NAME)


def recover(fleet_dir: Path, store: Store) -> Path:
    """Make another administrator's token, for who lost theirs; writing to the store is the proof.

    Raises:
        ConfigError: `token_unwritable`.
    """
    return _write_admin(fleet_dir, store, f"{FIRST_NAME}-{secrets.token_hex(3)}")


def create(
    tx: Tx,
    *,
    name: str,
    role: Role,
    scope: Scope,
    expires_unix_ms: int | None,
    by: Caller,
    now_unix_ms: int,
) -> Made:
    """Store a new token and return it; it cannot be read again.

    Raises:
        PeerError: `token_exists` or `out_of_scope`.
    """
    acts.about(f"{name}: {role} of {dict(scope) or 'all devices'}")
    if not is_within(scope, by.scope):
        raise out_of_scope(by.scope, "a token of yours can give no more than yours")
    if name == LOCAL or tx.tokens.get(name) is not None:
        raise PeerError(
            f"{name} is, or was, somebody's name already",
            code="token_exists",
            hint="choose another name: the audit log keeps them apart by it",
        )
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    row = TokenRow(
        name=name,
        digest=digest_of(token),
        role=role.value,
        scope=dict(scope),
        created_unix_ms=now_unix_ms,
        created_by=by.name,
        expires_unix_ms=expires_unix_ms,
    )
    tx.tokens.add(row)
    return Made(row, token)


def visible(tx: Tx, by: Caller) -> list[TokenRow]:
    """Return the tokens that give no more than the caller's scope."""
    return [row for row in tx.tokens.all() if is_within(row.scope, by.scope)]


def revoke(tx: Tx, name: str, *, by: Caller, now_unix_ms: int) -> TokenRow:
    """End a token at once.

    Raises:
        PeerError: `unknown_token` or `last_admin`.
    """
    row = tx.tokens.get(name)
    if row is None or not is_within(row.scope, by.scope):
        raise PeerError(
            f"there is no token {name[:80]!r}",
            code="unknown_token",
            hint="`fleet token list` lists them",
        )
    others = (other for other in tx.tokens.all() if other.name != name)
    is_last = _is_chief(row, now_unix_ms) and not any(_is_chief(o, now_unix_ms) for o in others)
    if is_last:
        raise PeerError(
            f"{name} is the last token that may administer the whole fleet",
            code="last_admin",
            hint="create another one first: `fleet token create NAME --role admin`",
        )
    tx.tokens.revoke(name, now_unix_ms)
    return tx.tokens.get(name) or row


def makers(tx: Tx, name: str) -> list[str]:
    """Return the names of the tokens behind one: what made it, what made that, and so on."""
    found: list[str] = []
    row = tx.tokens.get(name)
    while row is not None and row.created_by not in found:
        found.append(row.created_by)
        row = tx.tokens.get(row.created_by)
    return found


def prove(store: Store, token: str, now_unix_ms: int) -> Caller:
    """Return who bears a token.

    Raises:
        PeerError: `token_unknown`, `token_revoked` or `token_expired`.
    """
    row = None
    if token.startswith(PREFIX) and len(token) <= MAX_TOKEN_CHARS:
        with store.read() as tx:
            row = tx.tokens.by_digest(digest_of(token))
    if row is None:
        raise PeerError(
            "the token is none of this fleet's",
            code="token_unknown",
            hint="`fleet token create` makes one; FLEET_TOKEN or --token-file gives it",
        )
    if row.revoked_unix_ms is not None:
        raise PeerError(f"the token {row.name} was revoked", code="token_revoked")
    if not row.is_live(now_unix_ms):
        raise PeerError(
            f"the token {row.name} has expired",
            code="token_expired",
            hint="an administrator makes a new one: `fleet token create`",
        )
    return Caller(row.name, Role(row.role), row.scope)


def note_used(store: Store, name: str, now_unix_ms: int) -> None:
    """Note that a token was used; a store that cannot take it now is no reason to refuse anything."""
    with contextlib.suppress(StorageError), store.write() as tx:
        tx.tokens.set_used(name, now_unix_ms)


def out_of_scope(scope: Scope, why: str) -> PeerError:
    """Return the refusal of what reaches beyond a scope."""
    words = " ".join(f"{key}={value}" for key, value in sorted(scope.items()))
    return PeerError(
        f"this token is for devices with {words} only: {why}",
        code="out_of_scope",
        hint=f"name these tags too: --match {words}" if words else "",
    )


def _is_chief(row: TokenRow, now_unix_ms: int) -> bool:
    return row.role == Role.ADMIN and not row.scope and row.is_live(now_unix_ms)


def _write_admin(fleet_dir: Path, store: Store, name: str) -> Path:
    path = fleet_dir / TOKEN_FILE_NAME
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    try:
        write_durably(path, f"{token}\n".encode(), mode=0o600)
    except OSError as exc:
        raise ConfigError(
            f"cannot write {path}: {exc.strerror}",
            code="token_unwritable",
            hint="run it as the user whose fleet it is",
        ) from exc
    now = time.time_ns() // 1_000_000
    with doing(Act(LOCAL, "token", now, name)), store.write() as tx:
        tx.tokens.add(TokenRow(name, digest_of(token), Role.ADMIN.value, WHOLE_FLEET, now))
    return path
