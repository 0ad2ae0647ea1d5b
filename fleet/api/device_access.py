"""Which device asks: by the certificate that its connection has shown, looked up at each request."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from fleet.pki.enrolment import Enrolment
from wire.errors import PeerError

from .access import RIGHT_FIELD, check_right
from .patience import PEER_CERTIFICATE

DEVICE: Final = "device"
MAX_AT_ONCE: Final = 8
"""Requests of one device under way; an agent has four at most. Others must get their turn."""


def for_devices() -> dict[str, Any]:
    """Return the `openapi_extra` of a route that any device of the fleet may use, and nobody else."""
    return {RIGHT_FIELD: DEVICE, "security": []}


@asynccontextmanager
async def admitted(request: Request, extra: dict[str, Any]) -> AsyncIterator[None]:
    """Let a request pass whose caller has the right that the route declared.

    Raises:
        PeerError: As `check_right`, or as `DeviceGate.passing`.
    """
    if extra[RIGHT_FIELD] != DEVICE:
        check_right(getattr(request.state, "caller", None), extra)
        yield
        return
    gate: DeviceGate = request.app.state.gate
    async with gate.passing(getattr(request.state, PEER_CERTIFICATE, None)) as device:
        request.state.device = device
        yield


class DeviceGate:
    """Lets devices pass, a few requests of each at once. For one event loop."""

    def __init__(self, enrolment: Enrolment) -> None:
        self._enrolment = enrolment
        self._under_way: Counter[str] = Counter()

    @asynccontextmanager
    async def passing(self, certificate: bytes | None) -> AsyncIterator[str]:
        """Let the device pass that has shown a certificate (DER); give its id.

        Raises:
            PeerError: `no_certificate`, `too_many_requests`, or as `Enrolment.identify`.
        """
        if certificate is None:
            raise PeerError(
                "this is for devices of the fleet, and none has shown its certificate",
                code="no_certificate",
                hint="show over TLS the certificate that the device enrolled with",
            )
        device = await run_in_threadpool(self._enrolment.identify, certificate)
        if self._under_way[device] >= MAX_AT_ONCE:
            raise PeerError(
                f"{device} has {MAX_AT_ONCE} requests under way already",
                code="too_many_requests",
                hint="wait for an answer first",
            )
        self._under_way[device] += 1
        try:
            yield device
        finally:
            self._under_way[device] -= 1
            if not self._under_way[device]:
                del self._under_way[device]
