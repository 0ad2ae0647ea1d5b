"""The founding of a fleet's trust: all keys and the first documents, without a question."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from securesystemslib.signer import Key

from fleet.durable import write_durably
from fleet.store.store import Store
from wire.errors import ConfigError
from wire.trust import DIRECTOR

from .authority import Authority
from .documents import ROOT, SNAPSHOT, TARGETS, TIMESTAMP, freeze
from .draft import found_root, found_targets
from .keys import PASSPHRASE_FILE, KeyFolder
from .ledger import Ledger
from .repository import Repository
from .stored import load

ONLINE_DIR: Final = "trust"
"""In the store's directory."""
PASSPHRASE_BYTES: Final = 24
"""Of a generated passphrase: 192 bits, so that no key derivation has to slow anybody down."""


@dataclass(frozen=True, slots=True)
class Founded:
    """What `found` made."""

    root_path: Path
    keys_dir: Path
    has_passphrase_beside: bool


def online_dir(store_dir: Path) -> Path:
    """Return where the controller's own keys are."""
    return store_dir / ONLINE_DIR


def found(
    home: Path,
    store_dir: Path,
    now_unix_ms: int,
    *,
    database: Path | str,
    keys_dir: Path,
    passphrase: str | None,
) -> Founded:
    """Make root and targets keys, the controller's keys, and the first signed documents.

    A crash in the middle leaves keys that nothing names; calling it again makes new ones.

    Args:
        home: The fleet's directory; `root.json` goes here.
        store_dir: The controller's; made when absent.
        now_unix_ms: The time; what is signed expires so long after it.
        database: The controller's: a file, or PostgreSQL's URL.
        keys_dir: For the offline keys.
        passphrase: Protects them; None makes one, and leaves it beside them in a file.

    Raises:
        ConfigError: `trust_exists`, or `key_unwritable`.
        StorageError: The store cannot be used.
    """
    ledger = Ledger(home)
    if ledger.root_path.exists():
        raise ConfigError(
            f"{ledger.root_path} exists already: this fleet has its keys",
            code="trust_exists",
            hint="`fleet keys show` tells of them",
        )
    secret = passphrase or secrets.token_urlsafe(PASSPHRASE_BYTES)
    keys = KeyFolder(keys_dir, lambda _: secret, lambda _: secret)
    try:
        keys_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if passphrase is None:
            write_durably(keys_dir / PASSPHRASE_FILE, f"{secret}\n".encode(), mode=0o600)
        authority = Authority(online_dir(store_dir))
        repository = _sign_first(keys, authority, now_unix_ms)
        store = Store(database, store_dir)
        try:
            with store.write() as tx:
                if load(tx) is not None:
                    raise ConfigError(
                        f"the store {store.name} has trust metadata already, whose root is not"
                        f" {ledger.root_path}",
                        code="trust_exists",
                        hint="copy root.json and the offline keys from where they were made",
                    )
                files = {d.file_name: d.body.decode() for d in repository.documents()}
                # Before the store has it: what is in the ledger can be handed in again.
                ledger.save(repository)
                write_durably(ledger.root_path, repository.root.body)
                authority.accept(tx, files, now_unix_ms)
        finally:
            store.close()
    except OSError as exc:
        raise ConfigError(
            f"cannot write {exc.filename or home}: {exc.strerror}", code="key_unwritable"
        ) from exc
    return Founded(ledger.root_path, keys_dir, passphrase is None)


def _sign_first(keys: KeyFolder, authority: Authority, now_unix_ms: int) -> Repository:
    root_key, targets_key = keys.make(ROOT), keys.make(TARGETS)
    named: dict[str, Key] = {
        ROOT: root_key.key,
        TARGETS: targets_key.key,
        SNAPSHOT: authority.make_key(SNAPSHOT),
        TIMESTAMP: authority.make_key(TIMESTAMP),
    }
    root = found_root(named, now_unix_ms)
    root.sign(keys.signer(root_key))
    targets = found_targets(authority.make_key(DIRECTOR), now_unix_ms)
    targets.sign(keys.signer(targets_key))
    return Repository(freeze(ROOT, root), freeze(TARGETS, targets))
