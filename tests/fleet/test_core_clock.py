"""A device's clock that cannot be right is told of, once a day, and nothing depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.core.clock import EARLIEST_UNIX_MS, MAX_AHEAD_MS, fault_of
from fleet.core.gate import SILENCE_LIMIT_MS
from fleet.store.journal import RECORD_DAYS
from tests.fleet.peers import Device, Fleet, dawdles
from wire import codec, topics
from wire import messages as m

NOW = 1_800_000_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
AHEAD = "ahead of the controller's"


@pytest.mark.parametrize(
    ("said", "now", "fault"),
    [
        (NOW, NOW, None),
        (NOW + MAX_AHEAD_MS, NOW, None),
        (NOW + MAX_AHEAD_MS + 1, NOW, f"its clock is 10 minutes {AHEAD}"),
        (NOW + 100 * 60_000, NOW, f"its clock is 100 minutes {AHEAD}"),
        (NOW + 5 * HOUR_MS, NOW, f"its clock is 5 hours {AHEAD}"),
        (NOW + 3650 * DAY_MS, NOW, f"its clock is 3650 days {AHEAD}"),
        (NOW - 90 * DAY_MS, NOW, None),  # it waited on the device
        (EARLIEST_UNIX_MS, NOW, None),
        (EARLIEST_UNIX_MS - 1, NOW, "its clock says a time before 2024"),
        (0, NOW, "its clock says a time before 2024"),
        (0, 1000, None),  # the controller itself is in 1970
        (NOW, 1000, f"its clock is {(NOW - 1000) // DAY_MS} days {AHEAD}"),
    ],
)
def test_what_a_clock_may_say(said: int, now: int, fault: str | None) -> None:
    assert fault_of(said, now) == fault


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, now_unix_ms=NOW)
    fleet.settle()
    fleet.add("cam")
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


def alarm(device: Device, seq: int, at_unix_ms: int) -> None:
    message = m.AlarmEvent(boot=device.boot, seq=seq, at_unix_ms=at_unix_ms, code="x")
    device.send(topics.Event(device.name, "alarm"), codec.encode(message))


def complaints(fleet: Fleet) -> list[str]:
    return [text for text in fleet.events("alarm") if "clock" in text]


def test_a_wrong_clock_is_told_of_once_a_day_for_each_device(fleet: Fleet) -> None:
    fleet.add("other")
    for seq in range(1, 4):
        for name in "cam", "other":
            alarm(fleet.devices[name], seq, NOW + DAY_MS * 365)
        fleet.settle()
    assert len(complaints(fleet)) == 2
    assert "timedatectl" in complaints(fleet)[0]
    fleet.now_unix_ms += DAY_MS
    alarm(fleet.devices["cam"], 9, 0)
    fleet.settle()
    assert len(complaints(fleet)) == 3


def test_old_records_go_after_an_hour_and_not_when_the_clock_has_jumped(fleet: Fleet) -> None:
    def stored() -> int:
        with fleet.store.read() as tx:
            return len(tx.journal.records("cam", channel=None, limit=10))

    alarm(fleet.devices["cam"], 1, NOW)
    fleet.settle()
    fleet.now_unix_ms += 3650 * DAY_MS
    fleet.restart()
    fleet.settle()
    assert stored() == 1
    fleet.now_unix_ms = NOW + 60_000
    fleet.settle()
    assert stored() == 1
    # As time goes by, a tick at a time.
    fleet.now_unix_ms += (RECORD_DAYS + 1) * DAY_MS
    fleet.settle()
    fleet.wait(HOUR_MS / 1000 + 1, step_s=60)
    assert stored() == 0


def test_a_clock_that_was_far_ahead_and_is_set_back_makes_no_soak_last_for_years(
    fleet: Fleet,
) -> None:
    fleet.add("other")
    fleet.release("1.0.0")
    fleet.now_unix_ms += 3650 * DAY_MS
    rollout = fleet.roll_out("1.0.0", "1", "100%", soak_s=60)
    fleet.now_unix_ms -= 3650 * DAY_MS
    fleet.wait(50)
    assert fleet.rollout(rollout).open_phase == 0, "it soaks, from now on"
    fleet.wait(80)
    assert fleet.rollout(rollout).state == "finished"


@pytest.mark.parametrize("is_restarted", [True, False])
def test_a_device_that_went_silent_in_the_future_is_not_waited_for_until_then(
    fleet: Fleet, *, is_restarted: bool
) -> None:
    fleet.devices["cam"].verdict = dawdles
    fleet.release("1.0.0")
    fleet.now_unix_ms += 3650 * DAY_MS
    alarm(fleet.devices["cam"], 1, NOW)
    rollout = fleet.roll_out("1.0.0")
    fleet.devices["cam"].cut()
    fleet.settle()
    fleet.now_unix_ms -= 3650 * DAY_MS
    if is_restarted:
        fleet.restart()
    fleet.wait(SILENCE_LIMIT_MS / 1000 - 5)
    assert fleet.states(rollout) == {"cam": "in_progress"}
    fleet.wait(10)
    assert fleet.states(rollout) == {"cam": "pending"}
