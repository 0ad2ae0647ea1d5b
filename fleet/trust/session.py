"""One command of a person who signs: see what is there, draft, sign, hand in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tuf.api.metadata import Signed

from wire.errors import ConfigError, PeerError, TransferError

from .changes import changes
from .documents import ROOT, Document
from .draft import Draft
from .keys import KeyFolder
from .ledger import Ledger
from .repository import Repository, follow, succeed


class Carrier(Protocol):
    """The way to the controller."""

    def fetch(self) -> list[Document[Signed]]:
        """Return every root, and the newest document of each role that people sign."""
        ...

    def hand_in(self, documents: Sequence[Document[Signed]], *, may_skip: bool) -> None:
        """Hand documents in, all or none."""
        ...


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a draft.

    Attributes:
        changes: What it changes, in words.
        documents: The documents, as far as they are signed.
        missing: Role, count of lacking signatures, and keys that can give them; empty when the
            controller has taken it in.
        signed_by: Ids of the keys whose signatures are on it.
    """

    changes: tuple[str, ...]
    documents: tuple[Document[Signed], ...]
    missing: tuple[tuple[str, int, frozenset[str]], ...]
    signed_by: frozenset[str]

    @property
    def is_complete(self) -> bool:
        """Whether nothing is lacking."""
        return not self.missing


class Session:
    """Knows what the controller has, and believes it only as far as the ledger does."""

    def __init__(self, carrier: Carrier, ledger: Ledger, keys: KeyFolder, now_unix_ms: int) -> None:
        """Fetch what the controller has, and check it against root and ledger.

        Raises:
            PeerError: As `repository.follow` and `Ledger.check`.
            ConfigError: As `Ledger.roots`.
        """
        self.keys = keys
        self.ledger = ledger
        self.now_unix_ms = now_unix_ms
        self._carrier = carrier
        self.base = self._look()

    def _look(self) -> Repository:
        shown = self._carrier.fetch()
        found = follow(self.ledger.roots()[-1], shown)
        self.ledger.check(found)
        self.ledger.save(found, [document for document in shown if document.role == ROOT])
        return found

    def finish_pending(self) -> tuple[str, ...]:
        """Hand in what an interrupted command has signed; return what that changed, in words.

        What somebody else's signing has overtaken is forgotten: the command is given again anyway.
        """
        pending = self.ledger.pending()
        if not pending:
            return ()
        try:
            after = succeed(self.base, pending, self.now_unix_ms)
        except PeerError:
            self.ledger.set_pending(())
            return ()
        told = tuple(changes(self.base, after))
        self._hand_in(pending, after)
        return told

    def draft(self) -> Draft:
        """Return an empty draft on top of what there is."""
        return Draft(self.base, self.now_unix_ms)

    def words(self, draft: Draft) -> tuple[str, ...]:
        """Return what a draft changes.

        Raises:
            PeerError: As `repository.succeed`.
        """
        after = succeed(self.base, draft.documents(), self.now_unix_ms, check_signatures=False)
        return tuple(changes(self.base, after))

    def complete(self, draft: Draft) -> Done:
        """Sign a draft with the keys at hand; hand it in when that is enough.

        Raises:
            ConfigError: `key_not_at_hand`: no key here can sign any of it. As `KeyFolder.signers`.
            PeerError: What `repository.succeed` or the controller refuses.
        """
        draft.sign(self.keys.signers(draft.keyids()))
        documents = draft.documents()
        missing = draft.missing()
        signed_by = {keyid for d in documents for keyid in d.metadata.signatures}
        after = succeed(self.base, documents, self.now_unix_ms, check_signatures=not missing)
        done = Done(
            changes=tuple(changes(self.base, after)),
            documents=tuple(documents),
            missing=tuple(missing),
            signed_by=frozenset(signed_by),
        )
        if not missing and documents:
            self._hand_in(documents, after)
        return done

    def require_keys(self, draft: Draft) -> None:
        """Refuse a draft one of whose documents no key at hand can sign.

        Raises:
            ConfigError: `key_not_at_hand`.
        """
        for role in draft.roles:
            for need in draft.needs(role):
                self._require(role, need.keyids, need.threshold)

    def require_wanted_key(self, draft: Draft) -> None:
        """Refuse to add signatures to a draft that none of the keys at hand can bring further.

        Raises:
            ConfigError: `key_not_at_hand`.
        """
        lacking = {keyid for _, _, keyids in draft.missing() for keyid in keyids}
        mine = {keyid for keyid, file in self.keys.files().items() if file.uri is not None}
        if lacking and not lacking & mine:
            raise ConfigError(
                f"no key in {self.keys.path} is wanted here: signatures are lacking of"
                f" {', '.join(sorted(keyid[:8] for keyid in lacking))}",
                code="key_not_at_hand",
                hint="name another folder with --keys, or pass the file on",
            )

    def require_role_keys(self, role: str) -> None:
        """Refuse to go on where no key at hand signs as this role.

        Raises:
            ConfigError: `key_not_at_hand`.
        """
        found = self.base.role(role)
        self._require(role, frozenset(found.keyids), found.threshold)

    def _require(self, role: str, keyids: frozenset[str], threshold: int) -> None:
        mine = {keyid for keyid, file in self.keys.files().items() if file.uri is not None}
        if not keyids & mine:
            raise ConfigError(
                f"none of the keys in {self.keys.path} signs {role}: that takes"
                f" {threshold} of {', '.join(sorted(k[:8] for k in keyids))}",
                code="key_not_at_hand",
                hint="name another folder with --keys; or write the change to a file with"
                " --output, for others to `fleet sign`",
            )

    def _hand_in(self, documents: Sequence[Document[Signed]], after: Repository) -> None:
        self.ledger.set_pending(documents)
        try:
            self._carrier.hand_in(documents, may_skip=False)
        except TransferError as exc:
            # It may have arrived or not: the next command finds out, and hands it in again.
            exc.hint = "what was signed is kept; give the command again"
            raise
        except PeerError:
            self.ledger.set_pending(())
            raise
        self.ledger.save(after)
        self.ledger.set_pending(())
        self.base = after


def restore(carrier: Carrier, ledger: Ledger) -> list[Document[Signed]]:
    """Hand in all that the ledger has, to a controller whose store lost it; return it.

    Raises:
        PeerError: What the controller refuses.
    """
    documents: list[Document[Signed]] = [*ledger.roots(), *ledger.others().values()]
    carrier.hand_in(documents, may_skip=True)
    return documents
