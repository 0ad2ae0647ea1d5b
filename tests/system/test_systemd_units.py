"""The shipped units, judged by systemd's own tools, and the sample configuration by the agent."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
SERVICES = ("fleet-agent.service", "fleet-controller.service")
MAX_EXPOSURE = 15  # tenths; both units stand at 1.2, where an unhardened one has 9.6
KEYS_SINCE_254 = ("RestartSteps", "RestartMaxDelaySec")

pytestmark = pytest.mark.system


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin:/usr/sbin:/sbin")
    if found is None:
        reason = f"{name} is not installed: the units in systemd/ were NOT checked"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; CI has to install the package systemd")
        pytest.skip(reason)
    return found


def run(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(arg) for arg in argv], capture_output=True, text=True, timeout=240, check=False
    )


def systemd_version() -> int:
    first = run(tool("systemd-analyze"), "--version").stdout.split()
    return int(re.match(r"\d+", first[1])[0])


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with programs that exist here: verify looks for the file of ExecStart."""
    for path in (*UNITS.glob("*.service"), *UNITS.glob("*.socket")):
        text = re.sub(
            r"^ExecStart=\S+", f"ExecStart={sys.executable}", path.read_text(), flags=re.MULTILINE
        )
        (tmp_path / path.name).write_text(text)
    return tmp_path


def section(name: str, part: str) -> dict[str, list[str]]:
    """Return the settings of one section, each with all its values in order."""
    result: dict[str, list[str]] = {}
    current = ""
    for line in (UNITS / name).read_text().splitlines():
        if line.startswith("["):
            current = line.strip("[]")
        elif current == part and "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            result.setdefault(key, []).append(value)
    return result


def test_systemd_accepts_every_line_of_the_units(units: Path) -> None:
    files = sorted(units.iterdir())
    result = run(tool("systemd-analyze"), "verify", "--man=no", *files)
    complaints = [
        line
        for line in (result.stdout + result.stderr).splitlines()
        if str(units) in line or any(path.name in line for path in files)
    ]
    if systemd_version() < 254:
        complaints = [c for c in complaints if not any(f"'{k}'" in c for k in KEYS_SINCE_254)]
    assert complaints == []
    assert result.returncode == 0, result.stderr


def test_systemd_verify_notices_a_wrong_line(units: Path) -> None:
    path = units / "fleet-agent.service"
    path.write_text(path.read_text().replace("WatchdogSec=30", "WatchdogSecs=30"))
    result = run(tool("systemd-analyze"), "verify", "--man=no", path)
    assert "WatchdogSecs" in result.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_exposure_stays_low(units: Path, name: str) -> None:
    result = run(
        tool("systemd-analyze"), "security", "--offline=yes", "--no-pager",
        f"--threshold={MAX_EXPOSURE}", units / name,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-400:] + result.stderr


def test_an_agent_that_fails_is_always_started_again() -> None:
    unit, service = (section("fleet-agent.service", part) for part in ("Unit", "Service"))
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert service["Restart"] == ["always"]
    assert section("fleet-agent.socket", "Socket")["TriggerLimitIntervalSec"] == ["0"]


def test_the_agent_does_not_depend_on_the_network() -> None:
    unit = section("fleet-agent.service", "Unit")
    assert "network-online.target" in unit["Wants"]
    assert not any("online" in line for line in unit["After"])
    assert not unit.keys() & {"Requires", "BindsTo", "Requisite"}


def test_the_unit_says_what_the_agent_relies_on() -> None:
    service = section("fleet-agent.service", "Service")
    assert service["Type"] == ["notify"]
    assert service["WatchdogSec"] == ["30"]
    assert service["KillMode"] == ["mixed"]
    assert service["OOMPolicy"] == ["continue"]
    assert "ORT_DISABLE_TELEMETRY=1" in service["Environment"]
    assert service["ExecStart"] == [
        "/opt/modelfleet/bin/fleet-agent run --config /etc/modelfleet/agent.toml"
    ]


def test_the_runtime_may_confine_itself_under_the_units_filter() -> None:
    """Landlock, seccomp and prlimit64 must pass, or the runtime would serve unconfined."""
    allowed = " ".join(section("fleet-agent.service", "Service")["SystemCallFilter"])
    for call in ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"):
        assert call in allowed
    assert "seccomp" in allowed.split()
    default = run(tool("systemd-analyze"), "syscall-filter", "@default").stdout.split()
    assert "prlimit64" in default


def test_sample_configuration_agrees_with_the_units() -> None:
    sample = tomllib.loads((UNITS / "agent.toml").read_text())
    sections = {"device", "broker", "serve", "state", "telemetry", "trust", "feedback"}
    assert sample.keys() == sections
    listens = section("fleet-agent.socket", "Socket")["ListenStream"]
    assert listens == [sample["serve"]["listen"], sample["serve"]["socket"]]
    service = section("fleet-agent.service", "Service")
    assert sample["state"]["dir"] == f"/var/lib/{service['StateDirectory'][0]}"
    assert Path(sample["serve"]["socket"]).parent == Path("/run", service["RuntimeDirectory"][0])


def test_users_and_directories_are_made_as_the_units_need_them(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: files change owner")
    for path in UNITS.glob("*.conf"):
        name, kind, _ = path.name.split(".")
        target = tmp_path / f"etc/{kind}.d"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / f"{name}.conf")
    config = tmp_path / "etc/modelfleet"
    config.mkdir(parents=True)
    shutil.copy(UNITS / "agent.toml", config)
    made = run(tool("systemd-sysusers"), f"--root={tmp_path}")
    assert made.returncode == 0, made.stderr
    made = run(tool("systemd-tmpfiles"), f"--root={tmp_path}", "--create", "modelfleet.conf")
    assert made.returncode == 0, made.stderr

    users = (tmp_path / "etc/passwd").read_text()
    groups = (tmp_path / "etc/group").read_text()
    for name in SERVICES:
        user = section(name, "Service")["User"][0]
        assert f"\n{user}:" in f"\n{users}"
    assert f"\n{section('fleet-agent.socket', 'Socket')['SocketGroup'][0]}:" in f"\n{groups}"
    run_dir, toml = (tmp_path / "run/modelfleet").stat(), (config / "agent.toml").stat()
    assert run_dir.st_uid == int(re.search(r"^modelfleet:x:(\d+)", users, re.MULTILINE)[1])
    assert stat.S_IMODE(run_dir.st_mode) == 0o755
    assert stat.S_IMODE(toml.st_mode) == 0o640
