"""Routes by which people let devices in and put them out."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import FastAPI

from fleet.controller import Controller
from fleet.core.rights import Right
from fleet.pki.enrolment import Enrolment
from fleet.pki.grants import observer_name

from . import admission_schemas as s
from .access import By, needs


def add_routes(app: FastAPI, controller: Controller) -> None:
    """Add these routes."""

    @app.post("/v1/devices/{device}/tokens", status_code=201, openapi_extra=needs(Right.ADMINISTER))
    def invite(by: By, device: str, body: s.InvitationIn) -> s.Invitation:
        """Make a join token for a device; those before it end."""
        enrolment = _enrolment(controller)
        made = enrolment.invite(device, body.life_s, scope=by.scope)
        return s.Invitation(
            device=device,
            url=enrolment.door_url,
            token=made.token,
            expires_unix_ms=made.expires_unix_ms,
        )

    @app.post("/v1/devices/{device}/revoke", openapi_extra=needs(Right.ADMINISTER))
    def revoke(by: By, device: str) -> s.Revocation:
        """Revoke a device's certificates and cut its connection."""
        count, is_cut = _enrolment(controller).revoke(device, scope=by.scope)
        return s.Revocation(device=device, certificate_count=count, is_cut=is_cut)

    @app.post(
        "/v1/observers",
        status_code=201,
        openapi_extra=needs(Right.ADMINISTER, is_whole_fleet=True),
    )
    def observe(body: s.ObserverIn) -> s.Observer:
        """Give a certificate that reads every topic and writes none."""
        made = _enrolment(controller).observe(body.name, body.csr)
        return s.Observer(
            name=body.name, certificate=made.certificate, ca=made.ca, broker_url=made.broker_url
        )

    @app.get("/v1/observers", openapi_extra=needs(Right.ADMINISTER, is_whole_fleet=True))
    def list_observers() -> list[s.ObserverCertificate]:
        """List those who watch, and until when they can."""
        return [
            s.ObserverCertificate(
                name=row.device.removeprefix(observer_name("")),
                issued_unix_ms=row.issued_unix_ms,
                not_after_unix_ms=row.not_after_unix_ms,
            )
            for row in _enrolment(controller).observers()
        ]

    @app.post(
        "/v1/observers/{name}/revoke",
        openapi_extra=needs(Right.ADMINISTER, is_whole_fleet=True),
    )
    def revoke_observer(name: str) -> s.ObserverRevocation:
        """Revoke an observer's certificates and cut its connection."""
        count, is_cut = _enrolment(controller).revoke_observer(name)
        return s.ObserverRevocation(name=name, certificate_count=count, is_cut=is_cut)

    @app.post("/v1/broker-audits", openapi_extra=needs(Right.ADMINISTER, is_whole_fleet=True))
    def audit() -> s.AuditResult:
        """Try by round trip what the broker lets devices do, and look through what is on record."""
        found = _enrolment(controller).audit()
        return s.AuditResult(findings=[s.AuditFinding(**asdict(finding)) for finding in found])


def _enrolment(controller: Controller) -> Enrolment:
    if controller.enrolment is None:
        raise RuntimeError("this controller was started without an authority")
    return controller.enrolment
