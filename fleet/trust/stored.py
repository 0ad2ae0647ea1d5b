"""Signed documents in the controller's store: read, put there with their publications, looked up."""

from __future__ import annotations

from typing import cast

from tuf.api.metadata import Root, Signed, Targets

from fleet.store.releases import ReleaseRow
from fleet.store.store import Tx
from wire.errors import PeerError
from wire.trust import model_role

from .documents import (
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Document,
    model_of,
    parse_document,
)
from .releases import SignedRelease, floor_of, releases_of
from .repository import Repository


def load(tx: Tx) -> Repository | None:
    """Return what the store has of documents that people signed; they were verified on their way in."""
    rows = {row.role: row for row in tx.trust.all_newest()}
    if ROOT not in rows or TARGETS not in rows:
        return None
    parsed = {
        role: parse_document(role, row.body.encode())
        for role, row in rows.items()
        if role not in (SNAPSHOT, TIMESTAMP)
    }
    return Repository(
        root=cast("Document[Root]", parsed[ROOT]),
        targets=cast("Document[Targets]", parsed[TARGETS]),
        models={
            model: cast("Document[Targets]", document)
            for role, document in parsed.items()
            if (model := model_of(role)) is not None
        },
    )


def publish_all(tx: Tx) -> None:
    """Have every document sent again: a broker may have forgotten any of them."""
    rows = [*tx.trust.roots(), *(row for row in tx.trust.all_newest() if row.role != ROOT)]
    for document in sorted((parse_document(r.role, r.body.encode()) for r in rows), key=order):
        _publish(tx, document)


def snapshot_version(tx: Tx) -> int:
    """Return the version of the newest snapshot, 0 without any."""
    return tx.trust.version(SNAPSHOT)


def signed_releases(tx: Tx, model: str) -> tuple[dict[str, SignedRelease], int]:
    """Return the releases of a model that are signed, by version, and the model's floor."""
    row = tx.trust.newest(model_role(model))
    if row is None:
        return {}, 0
    targets = cast("Targets", parse_document(row.role, row.body.encode()).signed)
    return releases_of(model, targets), floor_of(targets)


def dead_manifests(tx: Tx, model: str) -> set[str]:
    """Return the manifests of a model's releases that are below its floor."""
    signed, floor = signed_releases(tx, model)
    return {release.manifest for release in signed.values() if release.number < floor}


def require_signed(tx: Tx, release: ReleaseRow) -> None:
    """Refuse to roll out what no device would take.

    Raises:
        PeerError: `not_signed` or `below_floor`.
    """
    name = f"{release.model}:{release.version}"
    signed, floor = signed_releases(tx, release.model)
    found = signed.get(release.version)
    if found is None or found.manifest != release.manifest:
        raise PeerError(
            f"{name} is not signed, and no device would run it",
            code="not_signed",
            hint="push its bundle again with `fleet push`, by somebody who has the model's key;"
            " a release that was retired stays out",
        )
    if found.number < floor:
        raise PeerError(
            f"{name} is below the floor of {release.model}: it was declared dead",
            code="below_floor",
            hint="push the model again under a new version, if it is good after all",
        )


def put(tx: Tx, document: Document[Signed]) -> None:
    """Store a document, and have it published."""
    tx.trust.add(document.role, document.version, document.body.decode())
    _publish(tx, document)


def order(document: Document[Signed]) -> tuple[int, int, str]:
    """Sort a document after those that it depends on."""
    ranks = {ROOT: 0, TARGETS: 1, SNAPSHOT: 3, TIMESTAMP: 4}
    return ranks.get(document.role, 2), document.version, document.role


def _publish(tx: Tx, document: Document[Signed]) -> None:
    # A new device is given the first root; all later ones it follows.
    if document.role != ROOT or document.version > 1:
        tx.journal.publish(document.topic.text, document.body.decode())
