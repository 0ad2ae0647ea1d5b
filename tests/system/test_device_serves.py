"""A device under systemd: it starts alone, is stopped in order, is killed all the time, and serves.

What `tests/system/test_device_install.py` shows already is not shown again: `kill -9` of either process,
a supervisor that stands still, an upgrade that keeps the state, the exposure while onnxruntime runs.
"""

import json
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.system.conftest import DEVICE_PACKAGES
from tests.system.device import Device, until
from tests.system.digits import Client, infer, serve

pytestmark = [pytest.mark.system, pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(900)]

NAME = "cam-02"
KILLS = 20
SERVICE = "fleet-agent.service"
OFFLINE = """
[Unit]
Before=network-online.target
[Service]
Type=oneshot
ExecStart=/bin/sleep 20
"""
"""What waits for a network at each boot, for minutes as a rule."""
TRANSITION = re.compile(r"INFO (digits [0-9a-f]{12}: \w+ -> \w+ .*)")


@pytest.fixture(scope="module")
def device(debian_tree, network, wheelhouse, fleet, tmp_path_factory):
    """A device with the agent installed, that has not been given anything yet."""
    root = tmp_path_factory.mktemp("serves") / "root"
    machine = Device(debian_tree(*DEVICE_PACKAGES), root, network)
    try:
        house = wheelhouse()
        machine.bring(house)
        fleet.fleet("device", "add", NAME, "--tag", f"name={NAME}", "--output", f"{NAME}.toml")
        machine.bring(fleet.home / f"{NAME}.toml")
        machine.bring(fleet.home / "root.json")
        machine.boot()
        machine.install(house, "--config", Path("/srv", f"{NAME}.toml"))
        yield machine
        machine.power_off()
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def serving(device, fleet):
    serve(fleet, device, NAME)
    return device


def journal(device):
    return device.run("journalctl", "--unit=fleet-agent", "--output=cat", "--no-pager").stdout


def counted(device):
    return json.loads((device.files / "var/lib/modelfleet/starts.json").read_text())


def waits(device):
    """Return how long each start in a row has said to serve before it connects, in seconds."""
    found = re.findall(r"connecting to the broker in (\d+) s", journal(device))
    return [int(wait_s) for wait_s in found]


def seconds(device, prop):
    """Return one of systemd's instants, in seconds of its monotonic clock."""
    return int(device.shown(f"{prop}Monotonic")) / 1e6


def test_the_journal_has_one_line_for_each_transition(serving):
    lines = TRANSITION.findall(journal(serving))
    manifest = lines[0].split()[1]
    assert lines == [
        f"digits {manifest} idle -> fetching (assigned)",
        f"digits {manifest} fetching -> self_testing (fetched)",
        f"digits {manifest} self_testing -> on_probation (activated)",
        f"digits {manifest} on_probation -> idle (confirmed): confirmed",
    ]


def test_stopped_and_started_it_loses_no_request(serving):
    with Client(serving) as client:
        for _ in range(3):
            before = client.answers
            until(lambda before=before: client.answers > before + 5, "it is being asked")
            serving.run("systemctl", "stop", SERVICE)
            serving.run("systemctl", "start", SERVICE)
        before = client.answers
        until(lambda: client.answers > before + 5, "it is being asked again")
    assert client.failures == []
    assert serving.shown("Result") == "success"


def test_it_starts_without_any_network_and_serves(serving, fleet):
    fleet.down()  # neither broker nor controller: there is nobody but the device
    units = serving.files / "etc/systemd/system"
    (units / "offline.service").write_text(OFFLINE)
    for wants, unit in (
        ("network-online", "offline.service"),
        ("multi-user", "network-online.target"),
    ):
        (units / f"{wants}.target.wants").mkdir(exist_ok=True)
        (units / f"{wants}.target.wants" / unit).symlink_to(f"/etc/systemd/system/{unit}")
    (units / "network-online.target").symlink_to("/lib/systemd/system/network-online.target")
    serving.power_off()
    serving.boot()
    assert until(lambda: infer(serving), "it serves") == "1.0.0"
    assert seconds(serving, "ActiveEnterTimestamp") < int(
        serving.shown("ActiveEnterTimestampMonotonic", "network-online.target")
    ) / 1e6, "it waited for a network"  # fmt: skip
    took_s = seconds(serving, "ActiveEnterTimestamp") - seconds(serving, "ExecMainStartTimestamp")
    print(f"from exec to READY=1, which is sent when it serves: {took_s:.2f} s")  # noqa: T201
    assert "cannot reach" in journal(serving)
    fleet.up()
    until(lambda: fleet.device(NAME)["state"] == "online", "it finds its broker")


def test_a_start_that_fails_is_repeated_ever_more_seldom_and_strands_nobody(serving, fleet):
    config = serving.files / "etc/modelfleet/agent.toml"
    good = config.read_text()
    config.write_text(good + "[nonsense]\n")
    serving.run("systemctl", "restart", SERVICE, code=1)  # it fails while one looks on

    def delays():
        return [int(s) for s in re.findall(r"have failed; the next in (\d+) s", journal(serving))]

    before = int(serving.shown("NRestarts"))
    until(lambda: delays() == [2, 4, 8], "each wait is twice as long as the one before")
    assert "nonsense: unknown key" in journal(serving)
    assert int(serving.shown("NRestarts")) >= before + 5
    assert "unknown key; 6 starts in a row have failed" in serving.shown("StatusText")
    assert serving.shown("ActiveState") == "activating"
    began_s = time.monotonic()
    serving.run("systemctl", "stop", SERVICE)  # in the middle of the wait
    assert time.monotonic() - began_s < delays()[-1], "stopping waited for the end of the wait"
    assert serving.shown("Result") == "success"
    config.write_text(good)
    serving.run("systemctl", "start", SERVICE)
    assert until(lambda: infer(serving), "it serves") == "1.0.0"
    until(lambda: fleet.device(NAME)["state"] == "online", "it is online")
    assert not list((serving.files / "run/modelfleet").glob("failed-starts"))


def test_without_its_identity_it_serves_and_root_lets_it_in_beside_the_running_agent(
    serving, fleet
):
    state = serving.files / "var/lib/modelfleet"
    serving.run("systemctl", "stop", SERVICE)
    shutil.rmtree(state / "identity")
    (state / "identity.copy").unlink()
    serving.run("systemctl", "start", SERVICE)
    assert until(lambda: infer(serving), "it serves") == "1.0.0"
    assert "the identity of this device is lost" in journal(serving)
    said, _ = fleet.start("device", "token", NAME).communicate()  # it talks to people only
    url, token = re.search(r"--url (\S+) --token (\S+)", said).groups()
    until(lambda: fleet.device(NAME)["state"] == "offline", "the broker has heard of its end")
    supervisor = serving.supervisor
    serving.run("fleet-agent", "enroll", "--url", url, "--token", token)
    until(lambda: fleet.device(NAME)["state"] == "online", "it is online")
    assert serving.supervisor == supervisor
    assert infer(serving) == "1.0.0"
    made = (state / "identity.copy", *(state / "identity").iterdir())
    assert {path.stat().st_uid for path in made} == {state.stat().st_uid}


def test_killed_again_and_again_it_is_started_again_and_serves_before_it_connects(serving, fleet):
    serving.run("systemctl", "restart", SERVICE)  # an orderly stop, from which the row is counted
    until(lambda: infer(serving), "it serves")
    count = counted(serving)["restart_count"]
    for _ in range(KILLS):
        victim = serving.supervisor
        victim.kill()
        victim.wait(30)
        # One that found its port still held by the runtime before has counted itself, too.
        until(
            lambda before=count: counted(serving)["restart_count"] > before,
            "it has counted that nobody had stopped it",
        )
        count = counted(serving)["restart_count"]
    assert until(lambda: infer(serving), "it serves") == "1.0.0"
    assert int(serving.shown("NRestarts")) >= KILLS
    until(lambda: waits(serving)[-1:] == [300], "it says how long it waits")
    # One that was killed between counting itself and saying so is not in the journal.
    grown = waits(serving)
    assert grown == sorted(grown)
    assert set(grown) <= {2, 4, 8, 16, 32, 64, 128, 256, 300}
    assert len(set(grown)) > 5
    found = serving.run("fleet-agent", "doctor", code=None).stdout
    assert re.search(r"warning +starts +\d+ without being stopped before, \d+ in a row", found), (
        found
    )
    until(lambda: fleet.device(NAME)["state"] == "offline", "the broker has heard of its end")
    # What a person does on purpose is no fault of the agent's: it connects at once.
    serving.run("systemctl", "restart", SERVICE)
    until(lambda: fleet.device(NAME)["state"] == "online", "it is online")
    assert infer(serving) == "1.0.0"
