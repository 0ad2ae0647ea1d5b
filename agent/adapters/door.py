"""The controller's door for devices, over HTTPS: enrol, renew, confirm."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import ssl
import time
from typing import Final, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel

from wire import codec
from wire.enrolment import (
    MAX_ANSWER_BYTES,
    Confirmed,
    EnrollRequest,
    JoinToken,
    Welcome,
    parse_token,
)
from wire.errors import ConfigError, PeerError, TransferError
from wire.link_paho import TlsFiles

from .identity import Identity

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 20.0
"""For one answer as a whole: who sends a byte a second is no controller."""
READ_BYTES: Final = 4096
HINTS: Final = {
    "token_used": "`fleet device token NAME` makes a new one",
    "token_expired": "`fleet device token NAME` makes a new one",
    "token_invalid": "`fleet device token NAME` makes a new one",
}

AnswerT = TypeVar("AnswerT", bound=BaseModel)


def enrol(identity: Identity, device: str, url: str, token_text: str) -> None:
    """Exchange a join token for an identity. To be said again after any failure.

    Nothing secret is sent before the controller has shown the authority that the token names.

    Raises:
        ConfigError: `enroll_url`.
        PeerError: `token_invalid`, `token_used`, `token_expired`, `wrong_device`, `wrong_authority`
            and what else the controller answers.
        TransferError: `controller_unreachable`.
        StorageError: The disk failed.
    """
    token = parse_token(token_text)
    csr = identity.new_request(device)
    ca = _fetch_ca(url, token)
    context = ssl.create_default_context(cadata=ca)
    TlsFiles.relax(context)
    body = EnrollRequest(token=str(token), csr=csr)
    welcome = _ask(url, "/v1/enroll", body, context, Welcome)
    if welcome.device != device or _fingerprint(welcome.ca) != token.fingerprint:
        raise PeerError("the controller answered for another device or fleet", code="wrong_device")
    identity.enrol(welcome, url)
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
    if _fingerprint(pem) != token.fingerprint:
        raise PeerError(
            f"{url} shows another authority than the one in the join token",
            code="wrong_authority",
            hint="is the url right? If it is, somebody stands between: the token was not sent",
        )
    return pem


def _fingerprint(pem: str) -> str:
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.strip() + "\n")).hexdigest()
    except ValueError:
        return ""


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
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ConfigError(
            f"{url!r} is not the address of a controller",
            code="enroll_url",
            hint="write it as https://HOST:PORT, as `fleet device add` prints it",
        )
    deadline_s = time.monotonic() + TIMEOUT_S
    connection = http.client.HTTPSConnection(
        parts.hostname, parts.port, timeout=TIMEOUT_S, context=context
    )
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = bytearray()
        while part := response.read1(READ_BYTES):
            data += part
            if len(data) > MAX_ANSWER_BYTES or time.monotonic() > deadline_s:
                raise TransferError(
                    f"{url} answers too much or too slowly", code="controller_unreachable"
                )
    except (OSError, http.client.HTTPException) as exc:
        raise TransferError(
            f"{url} cannot be reached: {exc}"[:300],
            code="controller_unreachable",
            hint="is the controller up, and is its port for devices open to this one?",
        ) from exc
    finally:
        connection.close()
    if response.status == http.HTTPStatus.OK:
        return bytes(data)
    raise _refusal(url, response.status, bytes(data))


def _refusal(url: str, status: int, data: bytes) -> PeerError | TransferError:
    if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        return TransferError(f"{url} answered {status}", code="controller_unreachable")
    try:
        told = json.loads(data)
        message, code = str(told["message"])[:300], str(told["code"])[:64]
    except (ValueError, KeyError, TypeError, RecursionError):
        message, code = f"{url} answered {status}: this is no controller", "not_a_controller"
    return PeerError(message, code=code, hint=HINTS.get(code, ""))
