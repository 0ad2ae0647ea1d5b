"""The controller's part: it takes in what people signed, and signs what it may with its own keys.

Its keys say what is newest (snapshot, timestamp) and which device gets what (director). Whoever
steals them can choose among signed releases, until a new root takes them their office.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp

from fleet.store.journal import EventRow
from fleet.store.store import Tx
from wire import codec
from wire import messages as m
from wire.errors import ConfigError, PeerError, StorageError
from wire.trust import DIRECTOR, Signature, seal, signing_bytes

from .changes import changes
from .documents import (
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Document,
    expiry,
    freeze,
    mismatch,
    parse_document,
    read_file,
    to_unix_ms,
)
from .keys import PRIVATE, make_online, read_online
from .releases import releases_of
from .repository import ONLINE_ROLES, Repository, succeed
from .stored import load, order, put, snapshot_version

MINUTE_MS: Final = 60_000
DAY_MS: Final = 24 * 60 * MINUTE_MS
TIMESTAMP_DAYS: Final = 7
TIMESTAMP_AGAIN_MS: Final = DAY_MS
"""Signed daily: a device that hears nothing for a week knows that something withholds news."""
SNAPSHOT_DAYS: Final = 30
SNAPSHOT_AGAIN_MS: Final = 15 * DAY_MS
DESIRED_DAYS: Final = 7
DESIRED_AGAIN_MS: Final = DAY_MS
"""How often a retained desired state is said again, long before it expires."""
MAX_DOCUMENTS: Final = 256
"""Handed in at once; TUF's clients follow as many roots in one go."""
SKEW_MS: Final = 5 * MINUTE_MS


class Accepted(NamedTuple):
    """What handing in did: the changes in words, none when all was known.

    With a new director's key every desired state has to be said again.
    """

    changes: tuple[str, ...]
    snapshot: int
    has_new_director: bool = False


class Authority:
    """The controller's keys and what it does with them. Holds no state of its own but the keys."""

    def __init__(self, folder: Path) -> None:
        """Read the keys in `folder`; it may be empty.

        Raises:
            ConfigError: `key_unreadable`.
        """
        self._folder = folder
        self._signers: dict[str, CryptoSigner] = {}
        self._director_of: tuple[int, CryptoSigner] | None = None
        self._read()

    @property
    def keyids(self) -> frozenset[str]:
        """The ids of the keys that are here."""
        return frozenset(self._signers)

    def make_key(self, role: str) -> SSlibKey:
        """Make a key for one of the controller's roles; it holds no office until a root names it.

        Raises:
            PeerError: `unknown_role`.
            StorageError: `key_unwritable`.
        """
        if role not in ONLINE_ROLES:
            raise PeerError(
                f"{role[:80]!r} is no role whose keys the controller holds",
                code="unknown_role",
                hint=f"those are {', '.join(ONLINE_ROLES)}",
            )
        try:
            key = make_online(self._folder, role)
        except OSError as exc:
            raise StorageError(
                f"cannot write a key to {self._folder}: {exc.strerror}", code="key_unwritable"
            ) from exc
        self._read()
        return key

    # -- documents

    def accept(
        self, tx: Tx, files: Mapping[str, str], now_unix_ms: int, *, may_skip: bool = False
    ) -> Accepted:
        """Take in documents that people signed, all or none; snapshot and timestamp follow them.

        Args:
            tx: The transaction; documents and their publications are stored in it.
            files: File name, such as `12.model-digits.json`, to the document's text.
            now_unix_ms: The time.
            may_skip: See `repository.succeed`.

        Raises:
            PeerError: As `repository.succeed`, or `trust_too_large`.
        """
        if len(files) > MAX_DOCUMENTS:
            raise PeerError(
                f"{len(files)} documents at once, the most is {MAX_DOCUMENTS}",
                code="trust_too_large",
            )
        documents = [read_file(name, text) for name, text in files.items()]
        before = load(tx)
        after = succeed(before, documents, now_unix_ms, may_skip=may_skip)
        newest = {id(document) for document in after.documents()}
        fresh = [
            document
            for document in sorted(documents, key=order)
            if (document.role == ROOT and _is_new_root(before, document, after))
            or (id(document) in newest)
        ]
        fresh = [d for d in fresh if tx.trust.get(d.role, d.version) is None]
        if not fresh:
            return Accepted((), snapshot_version(tx))
        self._check_offices(after)
        _check_bundles(tx, after)
        for document in fresh:
            put(tx, document)
        version = self._sign_snapshot(tx, after, now_unix_ms)
        told = tuple(changes(before, after))
        tx.journal.note([EventRow("trust", "signed", text) for text in told], now_unix_ms)
        former = before.role(DIRECTOR).keyids if before else []
        return Accepted(told, version, former != after.role(DIRECTOR).keyids)

    def refresh(self, tx: Tx, now_unix_ms: int) -> bool:
        """Sign snapshot and timestamp again where they are due; return whether one was."""
        repository = load(tx)
        if repository is None:
            return False
        snapshot, timestamp = tx.trust.newest(SNAPSHOT), tx.trust.newest(TIMESTAMP)
        if snapshot is None or timestamp is None:
            self._sign_snapshot(tx, repository, now_unix_ms)
            return True
        if _is_due(
            _expires(SNAPSHOT, snapshot.body), SNAPSHOT_DAYS, SNAPSHOT_AGAIN_MS, now_unix_ms
        ):
            self._sign_snapshot(tx, repository, now_unix_ms)
            return True
        if _is_due(
            _expires(TIMESTAMP, timestamp.body), TIMESTAMP_DAYS, TIMESTAMP_AGAIN_MS, now_unix_ms
        ):
            document = cast("Document[Snapshot]", parse_document(SNAPSHOT, snapshot.body.encode()))
            self._sign_timestamp(tx, repository, document, now_unix_ms)
            return True
        return False

    def _sign_snapshot(self, tx: Tx, repository: Repository, now_unix_ms: int) -> int:
        documents = [d for d in repository.documents() if d.role != ROOT]
        old = tx.trust.newest(SNAPSHOT)
        snapshot = Snapshot(
            version=_next_version(old.version if old else 0, now_unix_ms),
            expires=expiry(now_unix_ms, SNAPSHOT_DAYS),
            meta={f"{d.role}.json": _meta(d) for d in documents},
        )
        document = self._sign(SNAPSHOT, repository.root.signed, Metadata(snapshot))
        put(tx, document)
        self._sign_timestamp(tx, repository, document, now_unix_ms)
        return document.version

    def _sign_timestamp(
        self, tx: Tx, repository: Repository, snapshot: Document[Snapshot], now_unix_ms: int
    ) -> None:
        old = tx.trust.newest(TIMESTAMP)
        timestamp = Timestamp(
            version=_next_version(old.version if old else 0, now_unix_ms),
            expires=expiry(now_unix_ms, TIMESTAMP_DAYS),
            snapshot_meta=_meta(snapshot),
        )
        put(tx, self._sign(TIMESTAMP, repository.root.signed, Metadata(timestamp)))

    def _sign(self, role: str, root: Root, metadata: Metadata[Any]) -> Document[Any]:
        for keyid in root.roles[role].keyids:
            if (signer := self._signers.get(keyid)) is not None:
                metadata.sign(signer, append=True)
        return freeze(role, metadata)

    def _check_offices(self, repository: Repository) -> None:
        """Refuse a root or targets under which this controller could not go on."""
        for name in ONLINE_ROLES:
            role = repository.role(name)
            if len(self.keyids.intersection(role.keyids)) < role.threshold:
                raise mismatch(f"this controller has no key that may sign as {name}")

    # -- desired states

    def seal(self, tx: Tx, desired: m.Desired, now_unix_ms: int) -> bytes:
        """Return a desired state as it is published: stamped, and signed by the director's key.

        Raises:
            StorageError: `director_missing`: there is no key for it.
        """
        stamped = desired.model_copy(
            update={
                "issued_unix_ms": now_unix_ms,
                "expires_unix_ms": now_unix_ms + DESIRED_DAYS * DAY_MS,
                "snapshot": snapshot_version(tx),
            }
        )
        body = codec.encode(stamped)
        signed = self._director(tx).sign(signing_bytes(body))
        return seal(body, Signature(keyid=signed.keyid, sig=signed.signature))

    def _director(self, tx: Tx) -> CryptoSigner:
        version = tx.trust.version(TARGETS)
        if self._director_of is not None and self._director_of[0] == version:
            return self._director_of[1]
        row = tx.trust.newest(TARGETS)
        if row is not None:
            targets = cast("Targets", parse_document(TARGETS, row.body.encode()).signed)
            keyids = targets.get_delegated_role(DIRECTOR).keyids
        else:  # the store was lost: devices still know the key that they were given
            paths = sorted(self._folder.glob(f"{DIRECTOR}-*{PRIVATE}"))
            keyids = [read_online(path).public_key.keyid for path in paths]
        for keyid in keyids:
            if (signer := self._signers.get(keyid)) is not None:
                self._director_of = (version, signer)
                return signer
        raise StorageError(
            f"there is no key of the director in {self._folder}",
            code="director_missing",
            hint="restore the folder from a backup, or `fleet keys rotate director`",
        )

    def _read(self) -> None:
        for path in sorted(self._folder.glob(f"*{PRIVATE}")):
            try:
                signer = read_online(path)
            except (OSError, ValueError) as exc:
                raise ConfigError(
                    f"the controller's key {path} cannot be read: {exc}",
                    code="key_unreadable",
                    hint="restore it from a backup, or move it away and rotate that role",
                ) from exc
            self._signers[signer.public_key.keyid] = signer


def _check_bundles(tx: Tx, repository: Repository) -> None:
    for model, document in repository.models.items():
        pushed = {row.version: row.manifest for row in tx.releases.by_model(model)}
        for version, release in releases_of(model, document.signed).items():
            if pushed.get(version, release.manifest) != release.manifest:
                raise mismatch(f"{model}:{version} was pushed with another manifest than is signed")


def _is_new_root(before: Repository | None, document: Document[Signed], after: Repository) -> bool:
    return (before.root.version if before else 0) < document.version <= after.root.version


def _meta(document: Document[Signed]) -> MetaFile:
    digest = hashlib.sha256(document.body).hexdigest()
    return MetaFile(document.version, len(document.body), {"sha256": digest})


def _next_version(former: int, now_unix_ms: int) -> int:
    """Return a version above the former one, and above all of a store that was lost or set back.

    Minutes of the Unix epoch, so that a controller that starts again from a backup, or from
    nothing, still signs what devices take for news.
    """
    return max(former + 1, now_unix_ms // MINUTE_MS)


def _expires(role: str, body: str) -> int:
    return to_unix_ms(parse_document(role, body.encode()).signed.expires)


def _is_due(expires_unix_ms: int, days: int, again_ms: int, now_unix_ms: int) -> bool:
    """Whether a document is old enough, or was signed by a clock that was far ahead."""
    signed_unix_ms = expires_unix_ms - days * DAY_MS
    return not -SKEW_MS <= now_unix_ms - signed_unix_ms < again_ms
