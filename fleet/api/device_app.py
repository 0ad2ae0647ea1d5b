"""What devices may ask over HTTPS: to be let in, what the broker may have lost, and captured rows to be taken.

Nobody has logged in. Requests for an identity carry their own proof; content, which may be secret, goes
to those that show the certificate of a device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse

from fleet.capture import captures
from fleet.capture.limits import CaptureLimits
from fleet.pki.enrolment import Enrolment
from fleet.store.store import Store
from fleet.version import VERSION
from wire.enrolment import (
    Confirmed,
    ConfirmRequest,
    EnrollRequest,
    RenewRequest,
    UnknownDevice,
    Welcome,
)
from wire.errors import PeerError
from wire.ids import DeviceId, Digest
from wire.packs import MAX_PACK_BYTES, PackTaken

from . import errors, trust
from .access import open_to_all
from .device_access import DeviceGate, for_devices
from .gatekeeper import Gatekeeper
from .json_route import JsonRoute, check_routes

MAX_BODY_BYTES: Final = MAX_PACK_BYTES
"""The largest request; that for renewal has about 3 kB."""


def build_device_app(
    enrolment: Enrolment,
    store: Store,
    has_ignored: Callable[[str], bool],
    limits: CaptureLimits | None = None,
) -> FastAPI:
    """Return the API for devices.

    Args:
        enrolment: Lets devices in, and knows them.
        store: The controller's.
        has_ignored: Whether something came in the name of an unknown device.
        limits: How much of captured rows is taken.
    """
    kept = limits or CaptureLimits()
    app = FastAPI(
        title="modelfleet, for devices",
        version=VERSION,
        redirect_slashes=False,
        openapi_url=None,
    )
    app.state.gate = DeviceGate(enrolment)
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

    @app.get("/v1/chunks/{digest}", openapi_extra=for_devices())
    def show_chunk(digest: Digest) -> Response:
        """Return a chunk of a release, as it travels over MQTT too: one zstd frame."""
        with store.read() as tx:
            is_known = bool(tx.releases.known([digest]))
        if not is_known:
            raise PeerError(f"there is no chunk {digest}", code="unknown_chunk")
        return Response(store.chunks.read(digest), media_type="application/zstd")

    @app.get("/v1/trust/{file}", openapi_extra=for_devices())
    def show_document(file: str) -> Response:
        """Return a document as it was signed; without a version in its name, the newest."""
        return trust.answer_with(store, file)

    @app.get("/v1/unknown-devices/{device}", openapi_extra=for_devices())
    def show_unknown_device(device: DeviceId) -> UnknownDevice:
        """Tell a device whether what it sent in another's name came through; its doctor tries that."""
        return UnknownDevice(is_heard=has_ignored(device))

    @app.post("/v1/captures", openapi_extra=for_devices())
    async def take_pack(request: Request) -> PackTaken:
        """Take a pack of captured rows that the device was asked for; the body is the archive itself."""
        body, device = await request.body(), request.state.device
        now = enrolment.now_unix_ms()
        return await run_in_threadpool(captures.take, store, device, body, now, kept)

    check_routes(app.routes)
    return app
