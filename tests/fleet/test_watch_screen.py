"""The screen of `fleet watch` as it is drawn: what it says, that it fits, that nothing in it commands."""

import pytest
from rich.console import Console

from fleet.api.alert_schemas import Alert
from fleet.api.drift_schemas import DriftFinding
from fleet.api.schemas import Rollout, RolloutPhase, Status, WatchEvent
from fleet.cli.screen import MAX_SECTION_ROWS, Served, View, draw

NOW = 1_767_225_600_000
STATUS = Status(
    version="0.1.0",
    store="ok",
    broker="connected",
    broker_url="mqtts://localhost:8883",
    device_count=30,
    online_count=28,
)


def rollout(number=1, *, settled=3, reason="soaking"):
    phases = [
        RolloutPhase(share="1", size=1, settled_count=1, state="passed"),
        RolloutPhase(share="100%", size=30, settled_count=settled, state="open"),
    ]
    return Rollout(
        id=f"r-{number}", model="digits", version="1.1.0", manifest="0" * 64, match={},
        state="running", reason=reason, soak_s=1, tolerance=0, phases=phases, counts={},
        created_unix_ms=NOW,
    )  # fmt: skip


def alert(number=1, **fields):
    given = {
        "rule": "device_offline", "severity": "warning", "subject": "cam-01", "state": "firing",
        "text": "cam-01 has been silent for 5 min", "began_unix_ms": NOW,
    }  # fmt: skip
    return Alert(id=number, **(given | fields))


def finding(number=1):
    return DriftFinding(
        id=number, model="digits", version="1.0.0", level="device", who="cam-02", features=["p20"],
        since_unix_ms=NOW, drifted_count=1, device_count=30, opened_unix_ms=NOW,
        text="1 of 30 devices, feature p20",
    )  # fmt: skip


def event(number, text="online"):
    return WatchEvent(
        id=number, at_unix_ms=NOW, kind="presence", subject=f"cam-{number}", text=text, detail={}
    )


def drawn(view, events=(), *, width=100, height=30):
    console = Console(width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(draw(view, events, height))
    return capture.get().splitlines()


def test_it_says_how_the_fleet_is():
    view = View(
        url="http://127.0.0.1:8700",
        status=STATUS,
        served=(Served("digits", "1.0.0", 27),),
        rollouts=(rollout(),),
        alerts=(alert(),),
        findings=(finding(),),
    )
    text = "\n".join(drawn(view, [event(1)]))
    for said in (
        "28 online", "2 not", "digits:1.0.0", "on 27", "3 of 30, phase 2 of 2, running", "soaking",
        "cam-01 has been silent", "1 of 30 devices, feature p20", "presence", "cam-1: online",
    ):  # fmt: skip
        assert said in text


def test_what_is_well_takes_no_room():
    lines = drawn(View(url="http://x", status=STATUS))
    assert len(lines) == 3
    assert "broker" not in lines[0]
    assert "nothing yet" in lines[-1]


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"broker": "disconnected"}, "broker disconnected"), ({"store": "failing"}, "store failing")],
)
def test_a_controller_that_is_not_well_says_so(fields, said):
    assert said in drawn(View(url="http://x", status=STATUS.model_copy(update=fields)))[0]


def test_what_is_old_is_told():
    assert drawn(View(url="http://x", fault="gone away"))[1].strip() == "trying again: gone away"


@pytest.mark.parametrize("height", [12, 24, 50])
@pytest.mark.parametrize("count", [0, 1, MAX_SECTION_ROWS, 200])
def test_it_fits_into_any_terminal_that_holds_its_sections(height, count):
    view = View(
        url="http://x",
        status=STATUS,
        rollouts=tuple(rollout(n) for n in range(count)),
        alerts=tuple(alert(n, text="much to say " * 30) for n in range(count)),
    )
    events = [event(n, "words " * 40) for n in range(500)]
    lines = drawn(view, events, width=70, height=height)
    if 2 * (min(count, MAX_SECTION_ROWS) + 1) + 3 <= height:
        assert len(lines) <= height
    assert "cam-499" in lines[-1]
    assert all(len(line.rstrip()) <= 70 for line in lines)
    if count > MAX_SECTION_ROWS:
        assert any("(200, the first 6)" in line for line in lines)


def test_nothing_that_a_device_says_commands_the_terminal():
    nasty = "\x1b]0;owned\x07 [bold]loud[/bold] \x1b[2J"
    view = View(url="http://x", rollouts=(rollout(reason=nasty),), alerts=(alert(text=nasty),))
    text = "\n".join(drawn(view, [event(1, nasty)], width=200))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert text.count("[bold]loud[/bold]") == 3
