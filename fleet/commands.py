"""What any thread may ask of the controller: each is a transaction, and the loop sends what it stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TypeVar

from securesystemslib.signer import SSlibKey

from fleet.api.schemas import (
    QuarantineLiftIn,
    QuarantineLiftResult,
    RollbackIn,
    RollbackResult,
    RolloutIn,
)
from fleet.core.rights import WHOLE_FLEET, Scope
from fleet.core.states import Rollout
from fleet.store.store import Tx
from fleet.trust.authority import Authority

from . import quarantine, registry, rollouts
from .evidence import Sight
from .pki.enrolment import Enrolment

ResultT = TypeVar("ResultT")


class Commands(ABC):
    """The part of the controller that is its commands and nothing of its loop."""

    enrolment: Enrolment | None
    _authority: Authority
    _approval_limit: float | None

    @abstractmethod
    def command(self, do: Callable[[Tx], ResultT]) -> ResultT:
        """Run a transaction, and let the loop send what it stored."""

    @abstractmethod
    def now_unix_ms(self) -> int:
        """Return the time, as everything here sees it."""

    @abstractmethod
    def _sight(self) -> Sight: ...

    def set_tags(self, device: str, tags: Mapping[str, str], *, scope: Scope = WHOLE_FLEET) -> None:
        """See `registry.set_tags`."""
        self.command(
            lambda tx: registry.set_tags(tx, device, tags, self.now_unix_ms(), scope=scope)
        )

    def remove_device(self, device: str, *, scope: Scope = WHOLE_FLEET) -> None:
        """See `registry.remove_device`."""
        self.command(lambda tx: registry.remove_device(tx, device, self.now_unix_ms(), scope=scope))
        if self.enrolment is not None:
            self.enrolment.see_out(device)

    def start_rollout(
        self, request: RolloutIn, *, scope: Scope = WHOLE_FLEET, by: str = ""
    ) -> Rollout:
        """See `rollouts.start`."""
        limit = self._approval_limit
        return self.command(
            lambda tx: rollouts.start(tx, request, self._sight(), scope=scope, by=by, limit=limit)
        )

    def approve_rollout(self, rollout: str, *, by: str, scope: Scope = WHOLE_FLEET) -> Rollout:
        """See `rollouts.approve`."""
        return self.command(
            lambda tx: rollouts.approve(tx, rollout, self._sight(), by=by, scope=scope)
        )

    def pause_rollout(self, rollout: str, *, scope: Scope = WHOLE_FLEET) -> Rollout:
        """See `rollouts.pause`."""
        return self.command(lambda tx: rollouts.pause(tx, rollout, self._sight(), scope=scope))

    def resume_rollout(self, rollout: str, *, scope: Scope = WHOLE_FLEET) -> Rollout:
        """See `rollouts.resume`."""
        return self.command(lambda tx: rollouts.resume(tx, rollout, self._sight(), scope=scope))

    def abort_rollout(self, rollout: str, *, scope: Scope = WHOLE_FLEET) -> Rollout:
        """See `rollouts.abort`."""
        return self.command(lambda tx: rollouts.abort(tx, rollout, self._sight(), scope=scope))

    def rollback(self, request: RollbackIn, *, scope: Scope = WHOLE_FLEET) -> RollbackResult:
        """See `rollouts.rollback`."""
        return self.command(lambda tx: rollouts.rollback(tx, request, self._sight(), scope=scope))

    def lift_quarantine(
        self, request: QuarantineLiftIn, *, scope: Scope = WHOLE_FLEET
    ) -> QuarantineLiftResult:
        """See `quarantine.lift`."""
        return self.command(
            lambda tx: quarantine.lift(tx, request, self.now_unix_ms(), scope=scope)
        )

    def make_trust_key(self, role: str) -> SSlibKey:
        """See `Authority.make_key`."""
        return self._authority.make_key(role)
