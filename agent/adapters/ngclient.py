"""The door to python-tuf: one run of its unmodified client, and what came of it in our own words.

Imported when it is needed only: it costs a device 3 to 5 MB. `ngclient` has its own clock and
no mode without a network; it is given the time to judge by, and asks for every file by its name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from agent.core.trust import Fault
from wire.errors import ModelfleetError, PeerError, TransferError
from wire.lifecycle import Code

from .durable import storage_error

logging.getLogger("tuf").setLevel(logging.WARNING)

BASE: Final = "metadata/"
EVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""A time at which nothing has expired."""
MAX_TIMESTAMP_BYTES: Final = 16 * 1024
"""ngclient's own cap; ours have 400 bytes."""

Fetch = Callable[[str], Iterator[bytes]]
"""Gives the bytes of a file by name, such as `3.root.json`; raises LookupError when there is none, and
TransferError when it cannot be had."""


@dataclass(slots=True)
class Run:
    """What a run of the client has verified, whether it came to its end or not.

    Attributes:
        root: The newest root that the chain from the bootstrap leads to.
        timestamp: The verified document, if the run came so far; and so on.
        snapshot: Its own version is that of `timestamp`, or the run has ended there.
        targets: With the delegations to models and to the director.
        delegated: Sound documents, by role, of those to which `targets` delegates.
        found: The targets at `paths`; None for one that no role lists.
        faults: Why a path could not be looked up.
        error: What ended the run before its end.
    """

    root: Metadata[Root]
    timestamp: Metadata[Timestamp] | None = None
    snapshot: Metadata[Snapshot] | None = None
    targets: Metadata[Targets] | None = None
    delegated: dict[str, Metadata[Targets]] = field(default_factory=dict)
    found: dict[str, TargetFile | None] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    error: ModelfleetError | None = None


def is_root(data: bytes) -> bool:
    """Whether a file is a root of trust as its own keys have signed it: damage would show."""
    try:
        root = Metadata[Root].from_bytes(data)
        root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    except (exceptions.RepositoryError, ValueError):
        return False
    return True


def run(
    directory: Path,
    bootstrap: bytes,
    fetch: Fetch,
    *,
    now: datetime,
    paths: Collection[str],
    max_bytes: int,
) -> Run:
    """Refresh the metadata in `directory`, which ngclient writes without any sync.

    Args:
        directory: A scratch copy.
        bootstrap: The root that this device was given; the chain of trust begins there each time.
        fetch: Where newer files come from.
        now: The time to judge expiry by, with its zone.
        paths: Targets to look up; their delegated roles are refreshed too.
        max_bytes: Cap of one document.

    Raises:
        PeerError: The bootstrap root itself is not sound: `trust_malformed` or `trust_signature`.
        StorageError: The scratch directory cannot be written.
    """
    fetcher = _Fetcher(fetch)
    config = UpdaterConfig(
        root_max_length=max_bytes,
        timestamp_max_length=min(max_bytes, MAX_TIMESTAMP_BYTES),
        snapshot_max_length=max_bytes,
        targets_max_length=max_bytes,
    )
    try:
        updater = Updater(str(directory), BASE, fetcher=fetcher, config=config, bootstrap=bootstrap)
        # There is no other way to tell it the time; python-tuf's conformance client does the same.
        verified = updater._trusted_set  # noqa: SLF001
        verified.reference_time = now
        error = None
        try:
            updater.refresh()
        except (exceptions.RepositoryError, exceptions.DownloadError) as exc:
            error = _translated(exc, fetcher)
            error.__cause__ = exc
        result = _collected(directory, verified)
        result.error = error
        if error is None:
            _look_up(updater, fetcher, paths, result)
            _collect_delegated(directory, result)
    except exceptions.RepositoryError as exc:
        raise _translated(exc, fetcher) from exc
    except OSError as exc:
        raise storage_error(directory, exc) from exc
    return result


def _look_up(updater: Updater, fetcher: _Fetcher, paths: Collection[str], result: Run) -> None:
    for path in paths:
        try:
            result.found[path] = updater.get_targetinfo(path)
        except (exceptions.RepositoryError, exceptions.DownloadError) as exc:
            error = _translated(exc, fetcher)
            result.faults[path] = Fault(error.code, str(error))


def _collected(directory: Path, verified: Mapping[str, Signed]) -> Run:
    """Return the documents that the run has left: what it has verified is not verified again."""
    root = Metadata[Root].from_bytes((directory / "root.json").read_bytes())
    result = Run(root)
    for name, kind in (("timestamp", Timestamp), ("snapshot", Snapshot), ("targets", Targets)):
        try:
            data = (directory / f"{name}.json").read_bytes()
            document = Metadata[kind].from_bytes(data)  # type: ignore[valid-type]
            # What is on disk can be older than what was verified, and found no good since.
            if document.signed != verified.get(name):
                root.signed.verify_delegate(name, document.signed_bytes, document.signatures)
        except (exceptions.RepositoryError, FileNotFoundError):
            continue  # one of before a rotation of keys, or none yet
        setattr(result, name, document)
    return result


def _collect_delegated(directory: Path, result: Run) -> None:
    if result.targets is None or result.snapshot is None:
        return
    targets, listed = result.targets.signed, result.snapshot.signed.meta
    for role in (targets.delegations and targets.delegations.roles) or ():
        try:
            data = (directory / f"{quote(role, '')}.json").read_bytes()
            document = Metadata[Targets].from_bytes(data)
            # ngclient may have taken it from a role that delegates to the same name.
            targets.verify_delegate(role, document.signed_bytes, document.signatures)
        except (exceptions.RepositoryError, FileNotFoundError):
            continue  # it was not asked for, or is of before
        meta = listed.get(f"{role}.json")
        if meta is not None and meta.version == document.signed.version:
            result.delegated[role] = document


def signers(parent: Root | Targets, role: str, document: Metadata) -> frozenset[str]:  # type: ignore[type-arg]
    """Return the ids of a role's keys whose signatures on a document are good."""
    result = parent.get_verification_result(role, document.signed_bytes, document.signatures)
    return frozenset(result.signed)


def keys_of(parent: Root | Targets, role: str) -> tuple[frozenset[str], int]:
    """Return the key ids of a role, and how many of them must sign."""
    delegated = parent.get_delegated_role(role)
    return frozenset(delegated.keyids), delegated.threshold


def unix_ms(instant: datetime) -> int:
    """Return an instant of TUF's, in milliseconds."""
    return int(instant.timestamp() * 1000)


class _Fetcher(FetcherInterface):
    """Asks our source, and remembers what was asked for last."""

    def __init__(self, fetch: Fetch) -> None:
        self._source = fetch
        self.name = ""
        self.body = b""

    def _fetch(self, url: str) -> Iterator[bytes]:
        self.name, self.body = url.removeprefix(BASE), b""
        try:
            for piece in self._source(self.name):
                self.body += piece
                yield piece
        except LookupError as exc:
            raise exceptions.DownloadHTTPError("not there", 404) from exc
        except TransferError as exc:
            raise exceptions.DownloadError(str(exc)) from exc

    def versions(self) -> tuple[int | None, int | None]:
        """Return the version in the last file's name, and the one that it says itself."""
        asked = self.name.partition(".")[0]
        try:
            said = json.loads(self.body)["signed"]["version"]
        except (ValueError, KeyError, TypeError, RecursionError):
            said = None
        return int(asked) if asked.isdecimal() else None, said if isinstance(said, int) else None


def _translated(
    exc: exceptions.RepositoryError | exceptions.DownloadError, fetcher: _Fetcher
) -> ModelfleetError:
    """Return the typed form of what ngclient found, with a code of its own for each attack."""
    words = f"{fetcher.name or 'root.json'}: {exc}"[:300]
    match exc:
        case exceptions.DownloadLengthMismatchError():
            return PeerError(words, code=Code.TRUST_TOO_LARGE)
        case exceptions.DownloadError():
            return TransferError(words, code=Code.TRUST_UNAVAILABLE)
        case exceptions.UnsignedMetadataError():
            return PeerError(words, code=Code.TRUST_SIGNATURE)
        case exceptions.ExpiredMetadataError():
            return PeerError(words, code=Code.TRUST_EXPIRED)
        case DeserializationError():
            return PeerError(words, code=Code.TRUST_MALFORMED)
        case exceptions.BadVersionNumberError():
            asked, said = fetcher.versions()
            is_another = asked is not None and said is not None and said != asked
            is_old_root = fetcher.name.endswith(".root.json") and (said or 0) < (asked or 0)
            code = Code.TRUST_MISMATCH if is_another and not is_old_root else Code.TRUST_ROLLBACK
            return PeerError(words, code=code)
        case _:
            return PeerError(words, code=Code.TRUST_MISMATCH)
