"""What `install.sh` makes of a configuration before anything on the device is changed."""

import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import certifi
import pytest

from tests.system.device import ROOT

ADDED = """\
# The agent's configuration

[device]
id = "cam-01"

[broker]
url = "mqtt://broker.example:1883"

[serve]
listen = "127.0.0.1:8600"   # a word
socket = "/home/me/devices/cam-01/agent.sock"

[state]
dir = "/home/me/devices/cam-01/state"
"""
FITTING = ADDED.replace("/home/me/devices/cam-01/agent.sock", "/run/modelfleet/agent.sock").replace(
    "/home/me/devices/cam-01/state", "/var/lib/modelfleet"
)


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location(
        "device_config", ROOT / "systemd/device_config.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fit(program, tmp_path, monkeypatch, capsys):
    """Run the program on a text; return what it wrote, by name, and what it said."""

    def run(text, *options, code=0):
        source, into = tmp_path / "cam-01.toml", tmp_path / "into"
        source.write_text(text)
        into.mkdir(exist_ok=True)
        monkeypatch.setattr(
            sys, "argv", ["device_config.py", str(source), "--into", str(into), *options]
        )
        ended = program.main()
        said = "".join(capsys.readouterr())
        assert ended == code, said
        return {path.name: path.read_text() for path in into.iterdir()}, said

    return run


def test_what_device_add_writes_is_made_to_fit_and_each_change_told(fit):
    written, said = fit(ADDED)
    assert written == {"agent.toml": FITTING}
    assert "dir is /var/lib/modelfleet now, it was /home/me/devices/cam-01/state" in said
    assert "socket is /run/modelfleet/agent.sock now, it was /home/me/" in said


def test_what_fits_is_left_alone_and_nothing_is_said(fit):
    assert fit(FITTING) == ({"agent.toml": FITTING}, "")


def test_sections_that_are_missing_are_added(fit):
    written, _ = fit('[device]\nid = "cam-01"\n[broker]\nurl = "mqtts://b.example"\n')
    parsed = tomllib.loads(written["agent.toml"])
    assert parsed["state"] == {"dir": "/var/lib/modelfleet"}
    assert parsed["serve"] == {"socket": "/run/modelfleet/agent.sock"}


def test_a_broker_on_the_device_itself_is_pointed_out(fit):
    _, said = fit(FITTING.replace("broker.example", "127.0.0.1"))
    assert "this device itself" in said


@pytest.mark.parametrize(
    ("listen", "streams"),
    [
        ("[::1]:8601", ["", "[::1]:8601", "/run/modelfleet/agent.sock"]),
        ("", ["", "/run/modelfleet/agent.sock"]),
    ],
)
def test_another_address_becomes_a_drop_in(fit, listen, streams):
    written, _ = fit(FITTING.replace("127.0.0.1:8600", listen))
    assert re.findall(r"(?m)^ListenStream=(.*)$", written["socket.conf"]) == streams


def test_an_address_that_systemd_cannot_open_is_refused(fit):
    _, said = fit(FITTING.replace("127.0.0.1:8600", "localhost:8600"), code=1)
    assert "knows no names" in said


def test_an_authority_of_ones_own_is_taken_along(fit, tmp_path):
    authority = Path(certifi.where()).read_text()
    (tmp_path / "ca.pem").write_text(authority)
    text = FITTING.replace("mqtt://", "mqtts://").replace('1883"', '8883"\nca = "ca.pem"')
    written, said = fit(text)
    assert written["broker-ca.pem"] == authority
    assert 'ca = "/etc/modelfleet/broker-ca.pem"' in written["agent.toml"]
    assert "a copy of" in said
    _, said = fit(text.replace("ca.pem", "gone.pem"), code=1)
    assert "gone.pem" in said


@pytest.mark.parametrize("place", ["/home/x", "/run/x", "/tmp/x", "relative", "/", "/a b"])  # noqa: S108
def test_state_goes_only_where_it_lasts_and_the_unit_reaches(fit, place):
    _, said = fit(FITTING, "--state", place, code=1)
    assert f"--state {place}" in said


def test_the_readme_shows_the_drop_in_that_a_data_partition_gets(fit):
    written, _ = fit(FITTING, "--state", "/data/modelfleet")
    assert 'dir = "/data/modelfleet"' in written["agent.toml"]
    settings = written["state.conf"].partition("\n")[2]
    assert f"```text\n{settings}```" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (FITTING.replace("[state]", "[states]"), "states"),
        (FITTING.replace('id = "cam-01"', 'id = "no good"'), "device.id"),
        ("[device", "cam-01.toml"),
        ('serve = {socket = "/x"}\n' + FITTING.replace("[serve]", "[telemetry]")
         .replace("listen", "#").replace("socket", "#", 1), "agent.sock"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_nothing_written(fit, wrong, words):
    written, said = fit(wrong, code=1)
    assert words in said
    assert written.keys() <= {"agent.toml"}
