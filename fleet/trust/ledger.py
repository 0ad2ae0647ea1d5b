"""What the commands on this machine have seen and signed: the memory of those who hold keys.

A controller that was stolen, or set back, must not make anybody sign on top of old or foreign
documents. So the newest document of each role that was ever verified here is kept, and what was
signed is kept before it is handed in, so that a broken connection loses nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

from tuf.api.metadata import Root, Signed, Targets

from fleet.durable import write_durably
from wire.codec import parse_json
from wire.errors import ConfigError, PeerError, StorageError

from .documents import (
    ROOT,
    SNAPSHOT,
    TIMESTAMP,
    Document,
    mismatch,
    parse_document,
    parse_file_name,
)
from .repository import Repository

ROOT_FILE: Final = "root.json"
FOLDER: Final = "signed"
PENDING: Final = "pending.json"
MAX_PROPOSAL_BYTES: Final = 16 * 1024 * 1024


class Ledger:
    """A folder `signed/` beside a `root.json`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._folder = home / FOLDER

    @property
    def root_path(self) -> Path:
        """The root that devices are given, and that everything here is believed from."""
        return self.home / ROOT_FILE

    def roots(self) -> list[Document[Root]]:
        """Return the roots that were verified here, oldest first, from `root.json` on.

        Raises:
            ConfigError: `root_missing` or `ledger_unreadable`.
        """
        try:
            first = _read(self.root_path, ROOT)
        except FileNotFoundError as exc:
            raise ConfigError(
                f"there is no {self.root_path}",
                code="root_missing",
                hint="it was written by `fleet init`; `fleet keys found` makes the keys of a fleet"
                " that has none; on another machine copy it beside the keys",
            ) from exc
        later = [_read(path, ROOT) for path in self._folder.glob(f"*.{ROOT}.json")]
        chain = {d.version: d for d in [*later, first]}
        return [cast("Document[Root]", chain[v]) for v in sorted(chain) if v >= first.version]

    def others(self) -> dict[str, Document[Targets]]:
        """Return the newest document of each other role that was verified here.

        Raises:
            ConfigError: `ledger_unreadable`.
        """
        found = {}
        for path in self._folder.glob("*.json"):
            said = parse_file_name(path.name)
            if said is not None and said[0] != ROOT:
                found[said[0]] = cast("Document[Targets]", _read(path, said[0]))
        return found

    def check(self, shown: Repository) -> None:
        """Refuse a repository that is older than what was seen here, or contradicts it.

        Raises:
            PeerError: `trust_rollback` or `trust_mismatch`.
        """
        everything: dict[str, Document[Signed]] = {ROOT: self.roots()[-1], **self.others()}
        for role, known in everything.items():
            document = shown.newest(role)
            if document is None or document.version < known.version:
                version = document.version if document else 0
                raise PeerError(
                    f"the controller shows {role} version {version}, and version {known.version}"
                    " was seen here",
                    code="trust_rollback",
                    hint="was its store set back to a backup? `fleet keys restore` hands in what"
                    " was signed since; else look for an intruder",
                )
            if document.version == known.version and (
                document.metadata.signed_bytes != known.metadata.signed_bytes
            ):
                raise mismatch(
                    f"the controller shows another {role} version {known.version} than was seen here"
                )

    def save(self, repository: Repository, roots: Iterable[Document[Signed]] = ()) -> None:
        """Remember a repository that was verified, and the roots on the way to it.

        Raises:
            StorageError: `ledger_write`.
        """
        with self._writing():
            for root in (*roots, repository.root):
                path = self._folder / root.file_name
                if root.role == ROOT and not path.exists():
                    write_durably(path, root.body)
            for document in repository.documents():
                if document.role != ROOT:
                    path = self._folder / f"{document.role}.json"
                    if not path.exists() or path.read_bytes() != document.body:
                        write_durably(path, document.body)

    def pending(self) -> list[Document[Signed]]:
        """Return what was signed here and not yet taken in."""
        path = self._folder / PENDING
        return read_proposal(path) if path.exists() else []

    def set_pending(self, documents: Sequence[Document[Signed]]) -> None:
        """Remember what is about to be handed in; nothing when it is settled.

        Raises:
            StorageError: `ledger_write`.
        """
        with self._writing():
            if documents:
                write_durably(self._folder / PENDING, proposal_text(documents))
            else:
                (self._folder / PENDING).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as exc:
            raise StorageError(
                f"cannot write to {self._folder}: {exc.strerror}", code="ledger_write"
            ) from exc


def proposal_text(documents: Iterable[Document[Signed]]) -> bytes:
    """Return documents as a file that people pass around to sign."""
    texts = {document.file_name: document.body.decode() for document in documents}
    return json.dumps({"modelfleet": "sign 1", "documents": texts}, indent=1).encode() + b"\n"


def read_proposal(path: Path) -> list[Document[Signed]]:
    """Return the documents in a file that is passed around.

    Raises:
        ConfigError: `proposal_unreadable`.
    """
    try:
        with path.open("rb") as file:
            raw = parse_json(file.read(MAX_PROPOSAL_BYTES + 1), max_bytes=MAX_PROPOSAL_BYTES)
        return _proposed(raw)
    except (OSError, PeerError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ConfigError(
            f"{path} cannot be read as a file to sign: {exc}"[:300], code="proposal_unreadable"
        ) from exc


def _proposed(raw: Any) -> list[Document[Signed]]:
    if raw["modelfleet"] != "sign 1":
        raise ValueError("it is of another version")
    documents = []
    for name, text in raw["documents"].items():
        said = parse_file_name(name)
        if said is None or said[0] in (SNAPSHOT, TIMESTAMP):
            raise ValueError(f"{name[:80]!r} is nothing to sign")
        documents.append(parse_document(said[0], text.encode()))
    return documents


def _read(path: Path, role: str) -> Document[Signed]:
    try:
        return parse_document(role, path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, PeerError) as exc:
        raise ConfigError(
            f"{path} cannot be read: {exc}", code="ledger_unreadable", hint="restore it"
        ) from exc
