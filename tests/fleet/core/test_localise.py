"""Whose a drift is."""

from fleet.core.drift import Alarm, Level
from fleet.core.localise import Finding, Part, by_cause, localise, worded

REFERENCE = (1000,) * 10 + (0,)
STEADY = (50,) * 10 + (0,)
MOVED = (20, 30, 40, 45, 50, 50, 55, 60, 70, 80, 0)


def fleet_of(drifted=(), *, size=1000, moved=()):
    """Devices 0 to 299 are in site=lab, the others in site=yard; even ones have model=a."""
    return [
        Part(
            f"cam-{number:04d}",
            frozenset({f"site={'lab' if number < 300 else 'yard'}", f"model={'ab'[number % 2]}"}),
            MOVED if number in drifted or number in moved else STEADY,
            Alarm(1000 + number, 2) if number in drifted else None,
        )
        for number in range(size)
    ]


def found(parts, fleet=None, groups=None):
    return localise("temp_c", REFERENCE, parts, fleet, groups or {})


def test_no_alarm_is_no_finding():
    assert found(fleet_of()) == ()


def test_one_device_is_a_sensor():
    assert found(fleet_of({7})) == (Finding(Level.DEVICE, "cam-0007", ("temp_c",), 1007, 1, 1),)


def test_twelve_devices_of_one_group_are_the_group():
    (finding,) = found(fleet_of(set(range(12))))
    assert finding == Finding(Level.GROUP, "site=lab", ("temp_c",), 1005, 12, 300)
    assert worded(finding, "14:10") == "12 of 300 devices in site=lab, feature temp_c, since 14:10"


def test_devices_all_over_are_no_group():
    findings = found(fleet_of({10, 451, 812, 903}))
    assert [f.level for f in findings] == [Level.DEVICE] * 4


def test_most_devices_are_the_world():
    (finding,) = found(fleet_of(set(range(700))))
    assert (finding.level, finding.drifted, finding.devices) == (Level.FLEET, 700, 1000)
    assert worded(finding, "14:10").startswith("the whole fleet, 700 of 1000 devices")


def test_a_small_shift_of_everything_shows_only_in_all_together():
    (finding,) = found(fleet_of(moved=set(range(1000))), fleet=Alarm(5, 64))
    assert (finding.level, finding.since_unix_ms) == (Level.FLEET, 5)
    assert "no single one" in worded(finding, "14:10")


def test_a_group_that_moves_the_merged_fleet_is_still_the_group():
    parts = fleet_of(set(range(280)), moved=set(range(300)))
    findings = found(parts, fleet=Alarm(5, 4), groups={"site=lab": Alarm(6, 4)})
    assert [(f.level, f.who, f.drifted) for f in findings] == [(Level.GROUP, "site=lab", 280)]


def test_a_group_and_a_sensor_are_two():
    findings = found(fleet_of({*range(12), 777}))
    assert [(f.level, f.who) for f in findings] == [
        (Level.GROUP, "site=lab"),
        (Level.DEVICE, "cam-0777"),
    ]


def test_a_group_in_alarm_without_a_drifted_device_is_found():
    parts = fleet_of(moved=set(range(300)))
    (finding,) = found(parts, groups={"site=lab": Alarm(9, 32)})
    assert finding == Finding(Level.GROUP, "site=lab", ("temp_c",), 9, 0, 300)
    assert worded(finding, "14:10").startswith("300 devices in site=lab together")


def test_one_cause_with_many_features_is_one_finding():
    one = found(fleet_of({7}))
    other = (Finding(Level.DEVICE, "cam-0007", ("rpm",), 900, 1, 1),)
    world = (Finding(Level.FLEET, "", ("volt",), 800, 9, 10),)
    assert by_cause([*one, *other, *world]) == (
        world[0],
        Finding(Level.DEVICE, "cam-0007", ("temp_c", "rpm"), 900, 1, 1),
    )
    assert worded(by_cause([*one, *other])[0], "14:10") == (
        "device cam-0007, features temp_c, rpm, since 14:10"
    )
