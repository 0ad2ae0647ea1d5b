"""The controller's door for devices, over HTTPS: enrol, renew, confirm."""

from __future__ import annotations

import hashlib
import logging
import ssl
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from agent.core.root import check_pin
from wire import codec
from wire.endpoint import TlsFiles
from wire.enrolment import (
    MAX_ANSWER_BYTES,
    Confirmed,
    EnrollRequest,
    JoinToken,
    Welcome,
    parse_token,
)
from wire.errors import PeerError

from .bootstrap import read_named_root
from .https import Connection
from .identity import Identity

log = logging.getLogger(__name__)

AnswerT = TypeVar("AnswerT", bound=BaseModel)


def enrol(
    identity: Identity, device: str, url: str, token_text: str, *, named_root: Path | None
) -> None:
    """Exchange a join token for an identity. To be said again after any failure.

    Nothing secret is sent before the controller has shown the authority that the token names, and no
    root of trust is taken from it but one that the token, a person or the device's past vouches for.

    Args:
        identity: What the device has, in whatever condition.
        device: Its id.
        url: Of the controller's listener for devices.
        token_text: The join token, with or without the digest of the root of trust.
        named_root: The file of `[trust] root`.

    Raises:
        ConfigError: `enroll_url` or `trust_root_unreadable`.
        PeerError: `token_invalid`, `token_used`, `token_expired`, `wrong_device`, `wrong_authority`,
            `wrong_root` and what else the controller answers.
        TransferError: `controller_unreachable`.
        StorageError: The disk failed.
    """
    token = parse_token(token_text)
    named = read_named_root(named_root) if named_root is not None else None
    check_pin(token.root, named or identity.held_root())
    csr = identity.new_request(device)
    ca = _fetch_ca(url, token)
    context = ssl.create_default_context(cadata=ca)
    TlsFiles.relax(context)
    body = EnrollRequest(token=token.for_controller, csr=csr)
    welcome = _ask(url, "/v1/enroll", body, context, Welcome)
    kept = _named_certificate(welcome.ca, token)
    if welcome.device != device or kept is None:
        raise PeerError("the controller answered for another device or fleet", code="wrong_device")
    welcome = welcome.model_copy(update={"ca": kept})
    identity.enrol(welcome, url, root_sha256=token.root, named_root=named)
    log.info("enrolled as %s; the broker is %s", device, welcome.broker_url)


def renew(identity: Identity) -> None:
    """Ask for the next certificate, and have it tried.

    Raises:
        PeerError: `revoked` and what else the controller answers.
        TransferError: `controller_unreachable`.
        StorageError: The disk failed.
    """
    place = identity.place()
    request = identity.renewal(place.device)
    context = TlsFiles(identity.ca).context()
    identity.begin_trial(_ask(place.door_url, "/v1/renew", request, context, Welcome))


def confirm(identity: Identity) -> None:
    """Tell the controller that the certificate works.

    Raises:
        PeerError, TransferError, StorageError: As `renew`.
    """
    context = TlsFiles(identity.ca).context()
    _ask(identity.place().door_url, "/v1/confirm", identity.confirmation(), context, Confirmed)
    identity.confirmed()


def _fetch_ca(url: str, token: JoinToken) -> str:
    """Return the authority's certificate, from a controller that nobody vouches for but the token."""
    unproven = ssl.create_default_context()
    unproven.check_hostname = False
    unproven.verify_mode = ssl.CERT_NONE
    pem = _request(url, "GET", "/v1/ca", None, unproven).decode(errors="replace")
    named = _named_certificate(pem, token)
    if named is None:
        raise PeerError(
            f"{url} shows another authority than the one in the join token",
            code="wrong_authority",
            hint="is the url right? If it is, somebody stands between: the token was not sent",
        )
    return named


def _named_certificate(pem: str, token: JoinToken) -> str | None:
    """Return the certificate (PEM) that the token names, and nothing that came with it; None for another.

    Python's decoder may stop at the first padding, while TLS trusts every certificate in a text: only
    what was compared is used, encoded anew.
    """
    try:
        der = ssl.PEM_cert_to_DER_cert(pem.strip() + "\n")
    except ValueError:
        return None
    if hashlib.sha256(der).hexdigest() != token.fingerprint:
        return None
    return ssl.DER_cert_to_PEM_cert(der)


def _ask(
    url: str, path: str, body: BaseModel, context: ssl.SSLContext, kind: type[AnswerT]
) -> AnswerT:
    answer = _request(url, "POST", path, body.model_dump_json().encode(), context)
    try:
        return kind.model_validate(codec.parse_json(answer, max_bytes=MAX_ANSWER_BYTES))
    except ValueError as exc:
        raise PeerError(
            f"{url}{path} answered what no controller answers", code="answer_invalid"
        ) from exc


def _request(
    url: str, method: str, path: str, body: bytes | None, context: ssl.SSLContext
) -> bytes:
    connection = Connection(url, lambda: context)
    try:
        return connection.ask(method, path, body, max_bytes=MAX_ANSWER_BYTES)
    finally:
        connection.close()
