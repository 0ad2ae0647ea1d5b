"""A controller that is killed at every single commit and publication, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from fleet.api.schemas import RolloutIn
from fleet.controller import Controller
from fleet.store.store import Store, Tx
from tests.fleet.peers import Fleet, refuses
from wire.link import Link, Sink, WillFactory
from wire.topics import Qos


class Killed(BaseException):
    """What SIGKILL is: nothing catches it, nothing runs after it."""


@dataclass
class Fuse:
    """Burns through at point number `at`; None never does."""

    at: int | None = None
    passed: int = 0

    def point(self) -> None:
        self.passed += 1
        if self.passed == self.at:
            raise Killed


class FusedStore(Store):
    """Dies before or after a commit."""

    fuse = Fuse()

    @contextmanager
    def write(self) -> Iterator[Tx]:
        with super().write() as tx:
            yield tx
            self.fuse.point()
        self.fuse.point()


class FusedLink:
    """Dies before or after a publication."""

    def __init__(self, link: Link, fuse: Fuse) -> None:
        self._link = link
        self._fuse = fuse

    def start(self, sink: Sink, will: WillFactory) -> None:
        self._link.start(sink, will)

    def publish(self, topic: str, payload: bytes, *, qos: Qos, retain: bool) -> int | None:
        self._fuse.point()
        token = self._link.publish(topic, payload, qos=qos, retain=retain)
        self._fuse.point()
        return token

    def subscribe(self, filters: Sequence[str], *, qos: Qos) -> None:
        self._link.subscribe(filters, qos=qos)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        self._link.unsubscribe(filters)

    def is_alive(self) -> bool:
        return self._link.is_alive()

    def stop(self) -> None:
        self._link.stop()


class FusedFleet(Fleet):
    def arm(self, fuse: Fuse) -> None:
        """Put a controller in place that dies where the fuse says."""
        self.kill()
        self.store = FusedStore(self.database, self.folder, is_sole=True)
        self.store.fuse = fuse
        self.link = self.broker.link("controller")
        self.controller = Controller(
            self.store, FusedLink(self.link, fuse), lambda: self.now_unix_ms, self.authority
        )
        self.controller.start()


def scenario(folder: Path, at: int | None) -> tuple[Fuse, dict[str, object]]:
    """Roll a bad release out with a controller that dies at one point; return how all ended."""
    fleet = FusedFleet(folder)
    fleet.settle()
    fleet.add("a", "b", verdict=refuses("2.0.0"))
    for version in "1.0.0", "2.0.0":
        fleet.release(version)
    fleet.roll_out("1.0.0")
    fuse = Fuse(at)
    fleet.arm(fuse)
    wish = RolloutIn(model="digits", version="2.0.0", phases=["1", "100%"], soak_s=0)
    try:
        fleet.settle()
        fleet.controller.start_rollout(wish)
        fleet.settle()
    except Killed:
        fleet.restart()
        with fleet.store.read() as tx:
            is_known = tx.rollouts.get("r-2") is not None
        if not is_known:  # the person got no answer, and asks again
            fleet.controller.start_rollout(wish)
    fleet.settle()
    canary = fleet.rollout("r-2").members[0].device
    seen = {
        name: [
            (desired.generation, [model.version for model in desired.models])
            for number, desired in enumerate(device.desired)
            if desired not in device.desired[:number]  # said again is no new decision
        ]
        for name, device in fleet.devices.items()
    }
    end: dict[str, object] = {
        "state": fleet.rollout("r-2").state,
        "members": fleet.states("r-2"),
        "canary": seen.pop(canary),
        "others": list(seen.values()),
        "active": [device.active() for device in fleet.devices.values()],
        "told": [text for text in fleet.events("rollout") if text.startswith("halted")],
    }
    fleet.kill()
    return fuse, end


@pytest.mark.slow
def test_killed_at_any_point_it_repeats_and_never_skips_or_doubles(tmp_path: Path) -> None:
    fuse, expected = scenario(tmp_path / "whole", None)
    assert expected["state"] == "halted"
    assert expected["canary"] == [(1, ["1.0.0"]), (2, ["2.0.0"]), (3, ["1.0.0"])]
    assert expected["others"] == [[(1, ["1.0.0"])]]
    assert fuse.passed > 15
    for at in range(1, fuse.passed + 1):
        burnt, end = scenario(tmp_path / str(at), at)
        assert burnt.passed == at
        assert end == expected, f"killed at point {at}"
