"""Signed documents over HTTP: the second source for devices, and the door for those who sign."""

from __future__ import annotations

from fastapi import FastAPI, Response

from fleet import acts
from fleet.controller import Controller
from fleet.core.rights import Right
from fleet.store.store import Store, Tx
from fleet.store.trust import TrustRow
from fleet.trust.documents import parse_file_name
from wire.errors import PeerError

from . import schemas as s
from .access import needs


def add(app: FastAPI, controller: Controller) -> None:
    """Add these routes."""

    def accepted(body: s.TrustFiles, *, may_skip: bool) -> s.TrustAccepted:
        acts.about(", ".join(sorted(body.root)) or "no document")
        found = controller.accept_trust(body.root, may_skip=may_skip)
        return s.TrustAccepted(changes=list(found.changes), snapshot=found.snapshot)

    @app.get("/v1/trust/metadata", openapi_extra=needs(Right.SEE))
    def list_documents() -> s.TrustFiles:
        """Return every root, and the newest document of each other role."""
        with controller.store.read() as tx:
            rows = [*tx.trust.roots(), *(r for r in tx.trust.all_newest() if r.role != "root")]
        return s.TrustFiles({f"{row.version}.{row.role}.json": row.body for row in rows})

    @app.get("/v1/trust/metadata/{file}", openapi_extra=needs(Right.SEE))
    def show_document(file: str) -> Response:
        """Return a document as it was signed; without a version in its name, the newest."""
        return answer_with(controller.store, file)

    @app.post("/v1/trust/metadata", openapi_extra=needs(Right.RELEASE))
    def hand_in(body: s.TrustFiles) -> s.TrustAccepted:
        """Hand signed documents in, all or none."""
        return accepted(body, may_skip=False)

    @app.post("/v1/trust/restoration", openapi_extra=needs(Right.ADMINISTER, is_whole_fleet=True))
    def restore(body: s.TrustFiles) -> s.TrustAccepted:
        """Hand signed documents in to a store that lost some: versions may be left out."""
        return accepted(body, may_skip=True)

    @app.post(
        "/v1/trust/keys",
        status_code=201,
        openapi_extra=needs(Right.ADMINISTER, is_whole_fleet=True),
    )
    def make_key(body: s.TrustKeyIn) -> s.TrustKey:
        """Make a key on the controller; it counts once a root or targets document names it."""
        acts.about(body.role)
        key = controller.make_trust_key(body.role)
        return s.TrustKey(keyid=key.keyid, key=key.to_dict())


def answer_with(store: Store, file: str) -> Response:
    """Return the document that a file name asks for, as it was signed.

    Raises:
        PeerError: `unknown_document`.
    """
    with store.read() as tx:
        row = document(tx, file)
    return Response(row.body.encode(), media_type="application/json")


def document(tx: Tx, file: str) -> TrustRow:
    """Return the document that a file name asks for.

    Raises:
        PeerError: `unknown_document`.
    """
    said = parse_file_name(file)
    row = None
    if said is not None:
        role, version = said
        row = tx.trust.get(role, version) if version is not None else tx.trust.newest(role)
    if row is None:
        raise PeerError(
            f"there is no document {file[:80]!r}",
            code="unknown_document",
            hint="names are such as timestamp.json, 3.root.json and 12.model-digits.json",
        )
    return row
