"""The agent on a device: installed, serving, killed, upgraded, gone back, removed.

One device lives through this file from top to bottom; each test leaves it serving, the last one
leaves nothing of ours on it. A part can be run alone: what it needs is done by fixtures.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.system.conftest import DEVICE_PACKAGES
from tests.system.device import ROOT, Device, Network, until
from tests.system.digits import Client, infer, serve

MAX_EXPOSURE = 15  # tenths
VERSIONS = Path("/opt/modelfleet.versions")
BROKEN = """

def run_agent(config: AgentConfig) -> str | None:
    raise SystemExit("this version is broken on purpose")
"""
SHORT_WATCHDOG = "[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n"
NOT_OURS = (
    "srv", "tmp", "run", "proc", "sys", "dev", "var/log", "var/tmp", "var/lib/systemd", "var/cache",
    "var/lib/apt",
    "usr/lib/python3",
)  # fmt: skip
"""Where the test puts its files, where systemd and apt keep their own, and the system's own bytecode."""
BACKUPS = {"passwd-", "group-", "shadow-", "gshadow-", ".pwd.lock"}

pytestmark = [pytest.mark.system, pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(900)]


def contents(root):
    """Return what is on a device's disk: each path with what it holds, users and groups included."""
    found = {}
    for folder, names, files in os.walk(root):
        here = Path(folder).relative_to(root)
        names[:] = [name for name in names if str(here / name) not in NOT_OURS]
        for name in (*names, *files):
            path = Path(folder, name)
            if name in BACKUPS:
                continue
            if path.is_symlink():
                found[str(here / name)] = str(path.readlink())
            elif path.is_file():
                found[str(here / name)] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[str(here / name)] = "folder" if path.is_dir() else "special"
    return found


@pytest.fixture(scope="module")
def device(debian_tree, network, tmp_path_factory):
    root = tmp_path_factory.mktemp("device") / "root"
    machine = Device(debian_tree(*DEVICE_PACKAGES), root, network)
    try:
        machine.boot()
        machine.before = contents(root)
        yield machine
        machine.power_off()
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def house(device, wheelhouse):
    made = wheelhouse()
    device.bring(made)
    return made


@pytest.fixture(scope="module")
def configuration(fleet, device):
    fleet.fleet("device", "add", "cam-01", "--tag", "name=cam-01", "--output", "cam-01.toml")
    device.bring(fleet.home / "root.json")
    return Path("/srv", device.bring(fleet.home / "cam-01.toml").name)


@pytest.fixture(scope="module")
def installed(device, house, configuration):
    device.said = device.install(house, "--config", configuration).stdout
    return device


@pytest.fixture(scope="module")
def serving(installed, fleet):
    serve(fleet, installed, "cam-01")
    assert infer(installed) == "1.0.0"
    return installed


def test_it_refuses_what_it_cannot_do_and_changes_nothing(device, house):
    folder = Path("/srv", house.name)
    script, conf = folder / "install.sh", device.root / "srv" / house.name / "wheelhouse.conf"

    def refused(*words, prefix=(), options=()):
        done = device.run(script, *options, prefix=prefix, code=1)
        assert all(word in done.stderr for word in words), done.stderr

    refused("needs root", prefix=("setpriv", "--reuid=65534", "--clear-groups"))
    good = conf.read_text()
    for line, words in (
        ("ARCH=x86_64", ("for aarch64, this device is x86_64", "make wheelhouse ARCH=x86_64")),
        (
            "PYTHON_VERSION=3.11",
            ("for Python 3.12, /usr/bin/python3 is 3.11", "PYTHON_VERSION=3.11"),
        ),
        (re.search(r"GLIBC_MINOR=\d+", good)[0], ("this device has glibc 2.36", "need glibc 2.99")),
    ):
        other = {"ARCH": "aarch64", "PYTHON_VERSION": "3.12", "GLIBC_MINOR": "99"}
        key = line.partition("=")[0]
        assert line in good
        conf.write_text(good.replace(line, f"{key}={other[key]}"))
        refused(*words)
    conf.write_text(good)
    hidden = device.root / "usr/lib/python3.11/ensurepip"
    hidden.rename(hidden.with_name("gone"))
    refused("cannot make virtual environments", "python3-venv")
    hidden.with_name("gone").rename(hidden)
    device.run("mv", "/run/systemd/system", "/run/systemd/gone")
    refused("systemd does not run here")
    device.run("mv", "/run/systemd/gone", "/run/systemd/system")
    refused(
        "cannot read /srv/none.toml",
        "nothing was changed",
        options=("--config", "/srv/none.toml"),
    )
    device.run("rm", "-r", VERSIONS)  # what was built stays, for the next try
    for options in (("--purge",), ("--config",), ("--nonsense",), ("--rollback", "--state", "/x")):
        assert "--help" in device.run(script, *options, code=2).stderr
    refused("no version to go back to", options=("--rollback",))
    assert "--uninstall" in device.run(script, "--help").stdout
    assert contents(device.root) == device.before


def test_a_damaged_wheel_installs_nothing(device, house):
    damaged = device.root / "srv" / "damaged"
    shutil.copytree(house, damaged)
    wheel = next((damaged / "wheels").glob("pydantic-*"))
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")
    done = device.install(damaged, code=1)
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert "nothing was changed" in done.stderr
    device.run("rm", "-r", VERSIONS)
    assert contents(device.root) == device.before


def test_installed_it_serves_over_tcp_and_the_unix_socket(serving):
    assert "[state] dir is /var/lib/modelfleet now, it was " in serving.said
    assert "[serve] socket is /run/modelfleet/agent.sock now, it was " in serving.said
    assert infer(serving, unix="run/modelfleet/agent.sock") == "1.0.0"
    status = serving.run("fleet-agent", "status").stdout
    assert "answers on 127.0.0.1:8600, ready" in status
    assert "digits: 1.0.0 active" in status
    assert serving.shown("ActiveState", "fleet-agent.socket") == "active"
    assert serving.run("systemctl", "is-enabled", "fleet-agent.service").stdout == "enabled\n"


def test_again_is_as_good_as_once(serving, house):
    before = contents(serving.root / "etc")
    said = serving.install(house).stdout
    assert "there already" in said
    assert contents(serving.root / "etc") == before
    assert until(lambda: infer(serving), "it serves again") == "1.0.0"


def test_only_members_of_the_group_reach_the_unix_socket(serving):
    connect = "import socket; socket.socket(socket.AF_UNIX).connect('/run/modelfleet/agent.sock')"
    stranger = ("setpriv", "--reuid=65534", "--regid=65534")
    refused = serving.run("python3", "-c", connect, prefix=(*stranger, "--clear-groups"), code=None)
    assert "PermissionError" in refused.stderr
    serving.run("python3", "-c", connect, prefix=(*stranger, "--groups=modelfleet-clients"))


def test_every_protection_of_this_kernel_is_active_on_the_device(serving, fleet):
    code = "from agent.runtime.confine import confine; print(*confine([]))"
    possible = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    active = fleet.device("cam-01")["inventory"]["protections"]
    print("protections active on the device:", *active)  # noqa: T201 - for the reader of -rA
    assert set(possible.stdout.split()) <= set(active)
    assert {"rlimits", "no_new_privs", "seccomp"} <= set(active)
    serving.run("systemd-analyze", "security", f"--threshold={MAX_EXPOSURE}", "fleet-agent.service")


@pytest.mark.parametrize("which", ["runtime", "supervisor"])
def test_a_killed_process_is_replaced_and_no_connection_refused(serving, which):
    victim = getattr(serving, which)
    victim.kill()
    victim.wait(30)
    # The request comes while nobody is there, and waits in the queue that systemd holds.
    assert infer(serving) == "1.0.0"
    assert until(lambda: getattr(serving, which), f"another {which}").pid != victim.pid


def test_a_supervisor_that_stands_still_is_ended_by_the_watchdog(serving):
    drop_in = serving.root / "etc/systemd/system/fleet-agent.service.d/watchdog.conf"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text(SHORT_WATCHDOG)
    serving.run("systemctl", "daemon-reload")
    serving.run("systemctl", "restart", "fleet-agent.service")
    until(lambda: infer(serving), "it serves")
    stopped = serving.supervisor
    stopped.send_signal(signal.SIGSTOP)
    until(lambda: not psutil.pid_exists(stopped.pid), "the watchdog ends it")
    assert until(lambda: infer(serving), "it serves again") == "1.0.0"
    journal = serving.run("journalctl", "--unit=fleet-agent", "--no-pager").stdout
    assert "Watchdog timeout" in journal
    drop_in.unlink()
    drop_in.parent.rmdir()
    serving.run("systemctl", "daemon-reload")


def test_an_upgrade_that_does_not_start_leaves_the_old_version_serving(serving, wheelhouse):
    broken = wheelhouse(version="0.1.1", added={"agent/service.py": BROKEN})
    serving.bring(broken)
    before = contents(serving.root / "etc")
    done = serving.install(broken, code=3)
    assert "broken on purpose" in done.stderr
    assert "runs again" in done.stderr
    assert contents(serving.root / "etc") == before
    assert infer(serving) == "1.0.0"
    assert "0.1.1" not in serving.run("fleet-agent", "--version").stdout


def test_a_configuration_that_does_not_start_is_taken_back(serving, house):
    taken = serving.root / "srv/taken.toml"
    text = (serving.root / "etc/modelfleet/agent.toml").read_text()
    taken.write_text(text.replace("127.0.0.1:8600", "192.0.2.1:8600"))
    before = contents(serving.root / "etc")
    done = serving.install(house, "--config", "/srv/taken.toml", code=3)
    assert "runs again, with its configuration" in done.stderr
    assert contents(serving.root / "etc") == before
    assert until(lambda: infer(serving), "it serves again") == "1.0.0"


def test_an_upgrade_keeps_the_state_and_loses_no_request(serving, fleet, wheelhouse):
    newer = wheelhouse(version="0.2.0")
    serving.bring(newer)
    with Client(serving) as client:
        serving.install(newer)
        until(lambda: "0.2.0" in fleet.device("cam-01")["agent"], "the new version reports")
    assert client.failures == []
    assert client.answers > 0
    assert infer(serving) == "1.0.0"
    assert "0.2.0" in serving.run("fleet-agent", "--version").stdout
    kept = (serving.root / VERSIONS.relative_to("/")).iterdir()
    assert sorted(path.name.partition("-")[0] for path in kept) == ["0.1.0", "0.2.0", "previous"]


def test_it_goes_back_to_the_version_before(serving, fleet):
    serving.run("/opt/modelfleet/install.sh", "--rollback")
    until(lambda: "0.2.0" not in fleet.device("cam-01")["agent"], "the old version reports")
    assert infer(serving) == "1.0.0"


def test_another_address_is_systemds_business_too(serving, house):
    toml = serving.root / "srv/moved.toml"
    text = (serving.root / "etc/modelfleet/agent.toml").read_text()
    toml.write_text(text.replace("127.0.0.1:8600", "127.0.0.1:8601"))
    serving.install(house, "--config", "/srv/moved.toml")
    assert "answers on 127.0.0.1:8601" in serving.run("fleet-agent", "status").stdout
    with pytest.raises(ConnectionRefusedError):
        infer(serving)
    toml.write_text(text)
    serving.install(house, "--config", "/srv/moved.toml")
    assert until(lambda: infer(serving), "it serves where it did") == "1.0.0"


def test_the_state_may_lie_on_a_data_partition(serving, house):
    assert (serving.root / "var/lib/modelfleet/state.db").exists()
    serving.run("mkdir", "/data")
    serving.run("cp", "-a", "/var/lib/modelfleet", "/data/modelfleet")
    serving.install(house, "--state", "/data/modelfleet")
    assert until(lambda: infer(serving), "it serves from there") == "1.0.0"
    assert "/data/modelfleet" in serving.run("fleet-agent", "doctor", code=None).stdout
    # Another root file system may know the user by another number.
    serving.run("systemctl", "stop", "fleet-agent.service")
    serving.run("chown", "-R", "12345:12345", "/data/modelfleet")
    serving.run("systemctl", "start", "fleet-agent.service")
    assert until(lambda: infer(serving), "it serves from there again") == "1.0.0"
    serving.install(house)
    drop_in = serving.root / "etc/systemd/system/fleet-agent.service.d/50-install.conf"
    assert "ReadWritePaths=/data/modelfleet" in drop_in.read_text(), "remembered for upgrades"
    serving.install(house, "--state", "/var/lib/modelfleet")
    assert not drop_in.exists()
    assert until(lambda: infer(serving), "it serves from where it was") == "1.0.0"
    serving.run("rm", "-r", "/data")


def test_the_other_root_file_system_goes_on_with_state_and_configuration(
    serving, house, debian_tree, tmp_path_factory
):
    base = tmp_path_factory.mktemp("other")
    data, network = base / "data", Network()
    serving.run("systemctl", "stop", "fleet-agent.service")
    shutil.copytree(serving.root / "var/lib/modelfleet", data / "modelfleet")
    serving.run("systemctl", "start", "fleet-agent.service")
    shutil.copy(serving.root / "etc/modelfleet/agent.toml", data)

    other = Device(debian_tree(*DEVICE_PACKAGES), base / "root", network, binds=[(data, "/data")])
    try:
        other.bring(house)
        (other.root / "etc/modelfleet").mkdir()
        (other.root / "etc/modelfleet/agent.toml").symlink_to("/data/agent.toml")
        other.run_unbooted("useradd", "--system", "an-earlier-user")  # ours gets another number
        said = other.run_unbooted(
            f"/srv/{house.name}/install.sh", "--no-start", "--state", "/data/modelfleet"
        )
        assert "at the next boot" in said
        assert (other.root / "etc/modelfleet/agent.toml").is_symlink()
        other.boot()
        # No broker and no controller there: what it serves, it has from the data partition.
        assert until(lambda: infer(other), "the other root serves") == "1.0.0"
        uids = {machine.run("id", "-u", "modelfleet").stdout for machine in (serving, other)}
        assert len(uids) == 2
        other.install(house, "--uninstall", "--purge")
        assert list(data.iterdir()) == []
    finally:
        other.power_off()
        network.close()
        shutil.rmtree(base, ignore_errors=True)


def test_uninstalled_it_keeps_the_state_and_purged_it_leaves_nothing(serving, house, configuration):
    said = serving.run("/opt/modelfleet/install.sh", "--uninstall").stdout
    assert "--purge" in said
    assert not (serving.root / "opt/modelfleet").exists()
    assert (serving.root / "var/lib/modelfleet/state.db").exists()
    serving.install(house)
    assert until(lambda: infer(serving), "it serves from the state that was kept") == "1.0.0"

    serving.install(house, "--uninstall", "--purge")
    assert (
        serving.run("systemctl", "list-unit-files", "fleet-agent*", code=None).stdout.count(
            "fleet-agent"
        )
        == 0
    )
    assert not (serving.files / "run/modelfleet").exists()
    after = contents(serving.root)
    assert {path: after[path] for path in after.keys() - serving.before.keys()} == {}
    assert after == serving.before
    serving.install(house, "--uninstall", "--purge")  # nothing is there, and that is no error
