"""What the HTTP API takes and answers about who may talk: tokens to join by, observers, audits."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from wire.ids import DeviceId

from .schemas import Schema

MAX_OBSERVER_NAME: Final = 48
"""A certificate's common name has at most 64 characters, and these begin with `fleet.observer.`."""


class InvitationIn(Schema):
    """How long a join token is good, in seconds."""

    life_s: Annotated[float, Field(ge=1, le=90 * 86_400)] = 3600.0


class Invitation(Schema):
    """A join token; it is shown this once."""

    device: DeviceId
    url: str
    token: str
    expires_unix_ms: int


class ObserverIn(Schema):
    """Who wants to watch, and the signing request (PEM) for the name `fleet.observer.NAME`."""

    name: Annotated[DeviceId, Field(max_length=MAX_OBSERVER_NAME)]
    csr: Annotated[str, Field(max_length=8192)]


class Observer(Schema):
    """What an observer needs: its certificate, the authority's, the broker's address."""

    name: DeviceId
    certificate: str
    ca: str
    broker_url: str


class ObserverCertificate(Schema):
    """An observer's certificate; nobody renews it."""

    name: DeviceId
    issued_unix_ms: int
    not_after_unix_ms: int


class ObserverRevocation(Schema):
    """What putting an observer out did."""

    name: DeviceId
    certificate_count: int
    is_cut: bool
    """Whether the broker let us end its connection; NATS has ended it by itself."""


class AuditFinding(Schema):
    """One thing that an audit of the broker looked at."""

    subject: str
    verdict: Literal["ok", "warning", "fault"]
    text: str
    remedy: str


class AuditResult(Schema):
    """What an audit of the broker found."""

    findings: list[AuditFinding]


class Revocation(Schema):
    """What putting a device out did."""

    device: DeviceId
    certificate_count: int
    is_cut: bool
    """Whether the broker let us end its connection; NATS has ended it by itself."""
