"""What devices may ask over HTTPS. Nobody has logged in: each request carries its own proof."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from fleet.pki.enrolment import Enrolment
from fleet.version import VERSION
from wire.enrolment import Confirmed, ConfirmRequest, EnrollRequest, RenewRequest, Welcome

from . import errors
from .access import open_to_all
from .gatekeeper import Gatekeeper
from .json_route import JsonRoute, check_routes

MAX_BODY_BYTES: Final = 32 * 1024
"""The largest request, for renewal, has about 3 kB."""


def build_device_app(enrolment: Enrolment) -> FastAPI:
    """Return the API for devices."""
    app = FastAPI(
        title="modelfleet, for devices",
        version=VERSION,
        redirect_slashes=False,
        openapi_url=None,
    )
    app.router.route_class = JsonRoute
    errors.install(app)
    app.add_middleware(Gatekeeper, max_body_bytes=MAX_BODY_BYTES)

    @app.get("/v1/ca", response_class=PlainTextResponse, openapi_extra=open_to_all())
    def show_ca() -> str:
        """Show the authority's certificate; a join token says which one it must be."""
        return enrolment.ca_pem

    @app.post("/v1/enroll", openapi_extra=open_to_all())
    def enroll(body: EnrollRequest) -> Welcome:
        """Exchange a join token for a certificate."""
        return enrolment.enroll(body.token, body.csr)

    @app.post("/v1/renew", openapi_extra=open_to_all())
    def renew(body: RenewRequest) -> Welcome:
        """Give a device its next certificate."""
        return enrolment.renew(body.certificate, body.csr, bytes.fromhex(body.signature))

    @app.post("/v1/confirm", openapi_extra=open_to_all())
    def confirm(body: ConfirmRequest) -> Confirmed:
        """Retire a device's certificates before this one."""
        count = enrolment.confirm(body.certificate, bytes.fromhex(body.signature))
        return Confirmed(retired_count=count)

    check_routes(app.routes)
    return app
