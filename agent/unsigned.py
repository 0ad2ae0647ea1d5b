"""Stands where `Trust` will, until every fleet signs: believes all, as before."""

from __future__ import annotations

import time
from collections.abc import Collection

from wire import codec
from wire.errors import PeerError
from wire.messages import Desired

from .core.states import Assignment, DeviceState
from .core.trust import Allowed, Verdict


class Unsigned:
    """For an agent without any root of trust."""

    due_s: float | None = None

    def __init__(self, device: str) -> None:
        """Know for whom."""
        self._device = device

    def refuse(self, exc: PeerError) -> None:
        """Let the loop tell of it.

        Raises:
            PeerError: It.
        """
        raise exc

    def start(self, models: Collection[str]) -> None:
        """Do nothing."""

    def connected(self) -> None:
        """Do nothing."""

    def deliver(self, topic: object, payload: bytes) -> None:
        """Do nothing."""

    def tick(self, state: DeviceState, now_s: float) -> None:
        """Do nothing."""

    def refresh(self, state: DeviceState) -> Desired | None:
        """Do nothing."""
        return None

    def open(self, payload: bytes, state: DeviceState) -> Desired | None:
        """Return a desired state, signed or not.

        Raises:
            PeerError: It is for another device, or none.
        """
        desired = codec.decode(Desired, payload.partition(b"\n")[0])
        names = [model.name for model in desired.models]
        if desired.device != self._device or len(set(names)) != len(names):
            raise PeerError(
                f"desired state names device {desired.device!r} or a model twice",
                code="desired_invalid",
            )
        if desired.expires_unix_ms is not None and desired.expires_unix_ms < time.time() * 1000:
            raise PeerError("desired state has expired", code="expired")
        return desired

    def authorise(self, assignment: Assignment) -> Verdict:
        """Allow everything."""
        return Allowed()
