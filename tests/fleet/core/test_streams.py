"""What becomes of alarms whose devices are silent."""

import pytest

from fleet.core.drift import Alarm, Level, Reference
from fleet.core.streams import Budget, Evidence, Slot, Stream, by_column, total
from fleet.core.windows import ColumnSums, WindowSums

SLOT_MS = 900_000
NEWEST = 200 * SLOT_MS
REFERENCE = Reference((5000, 5000, 0), is_ordered=True)
LAB, HALL = ("a", "b", "c", "d"), ("e", "f", "g", "h")
GROUPS = {name: frozenset({"site=lab" if name in LAB else "site=hall"}) for name in LAB + HALL}
ALARM = Alarm(0, 1)
BUDGET = Budget(1.0, 900.0, {})


def found(alarms, *, sending=(), serving=LAB + HALL):
    """Return what alarms of the one column last, and what they are traced to."""
    counts = WindowSums(500, {0: ColumnSums((250, 250))})
    evidence = Evidence(
        names=("temp_c",),
        references=(REFERENCE,),
        slots={name: [Slot(NEWEST, counts)] for name in sending},
        groups=GROUPS,
        serving=frozenset(serving),
    )
    before = {Stream(*stream, 0): ALARM for stream in alarms}
    judged = total(by_column(evidence, before, NEWEST, BUDGET))
    lasting = {(stream.level, stream.who) for stream in judged.alarms}
    return lasting, [(one.level, one.who, one.drifted, one.devices) for one in judged.findings]


@pytest.mark.parametrize("sending", [(), LAB[1:] + HALL])
def test_the_alarm_of_a_silent_device_lasts_while_it_serves_the_release(sending):
    alarm = (Level.DEVICE, "a")
    assert found([alarm], sending=sending) == ({alarm}, [(Level.DEVICE, "a", 1, 1)])
    assert found([alarm], sending=sending, serving=LAB[1:] + HALL) == (set(), [])


@pytest.mark.parametrize("sending", [(), HALL])
def test_the_alarms_of_silent_devices_together_last_too(sending):
    alarm = (Level.GROUP, "site=lab")
    assert found([alarm], sending=sending) == ({alarm}, [(Level.GROUP, "site=lab", 0, 4)])
    assert found([alarm], sending=sending, serving=HALL) == (set(), [])
    own = [(Level.DEVICE, name) for name in LAB]
    lasting, findings = found(own, sending=sending)
    assert (lasting, findings) == (set(own), [(Level.GROUP, "site=lab", 4, 4)])


def test_the_alarm_of_a_silent_fleet_lasts():
    alarm = (Level.FLEET, "")
    assert found([alarm]) == ({alarm}, [(Level.FLEET, "", 0, 8)])
    assert found([alarm], serving=()) == (set(), [])


def test_a_device_that_sends_ends_its_alarm_by_its_rows():
    alarm = (Level.DEVICE, "a")
    stream = Stream(*alarm, 0)
    alarms = {stream: ALARM}
    slots = []
    for number in range(4):
        slots.append(Slot(NEWEST + number * SLOT_MS, WindowSums(500, {0: ColumnSums((250, 250))})))
        evidence = Evidence(("x",), (REFERENCE,), {"a": slots}, GROUPS, frozenset(LAB))
        judged = total(by_column(evidence, alarms, slots[-1].start_unix_ms, BUDGET))
        assert (number < 3) == (stream in judged.alarms)
        alarms = dict(judged.alarms)
