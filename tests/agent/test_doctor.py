"""`fleet-agent doctor` on a device whose agent is not running, one fault at a time."""

import json
import socket
import sqlite3

import pytest

from agent.adapters.content_files import ContentStore
from agent.adapters.state_sqlite import SqliteStateStore
from agent.cli import run
from agent.core.states import DeviceState, ModelRecord, Ref
from tests.agent.adapters.bundles import make_bundle
from tests.agent.adapters.test_content_files import install
from wire.manifest import digest_of
from wire.messages import Inventory


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def device(tmp_path):
    config = tmp_path / "agent.toml"
    config.write_text(
        f'[device]\nid = "cam-01"\n[broker]\nurl = "mqtt://127.0.0.1:{closed_port()}"\n'
        f'[serve]\nlisten = "127.0.0.1:{closed_port()}"\n[state]\ndir = "state"\n'
    )
    (tmp_path / "state").mkdir()
    return tmp_path


@pytest.fixture
def examined(device, capsys):
    def examine():
        code = run(["doctor", "--json", "--config", str(device / "agent.toml")])
        found = json.loads(capsys.readouterr().out)
        assert all(f["remedy"] for f in found if f["verdict"] != "ok")
        assert code == (1 if any(f["verdict"] == "fault" for f in found) else 0)
        return {f["subject"]: f for f in found}

    return examine


def save(device, state, inventory=None):
    store = SqliteStateStore(device / "state" / "state.db")
    store.save(state)
    if inventory is not None:
        store.save_inventory(inventory)
    store.close()


def put_bundle(device):
    """A file of content whose name is its digest, good enough to be hashed."""
    ContentStore(device / "state")
    manifest = b"{}"
    path = device / "state" / "content" / digest_of(manifest)
    path.write_bytes(manifest)
    return path, Ref("1.0.0", digest_of(manifest), "b" * 64)


def test_a_configuration_that_cannot_be_read_ends_the_examination(device, examined):
    (device / "agent.toml").write_text("[device]\nid = 'cam-01'\ncolour = 'red'\n")
    found = examined()
    assert list(found) == ["configuration"]
    assert "colour" in found["configuration"]["text"]


def test_an_agent_that_never_ran(examined):
    found = examined()
    assert "never run" in found["agent"]["text"]
    assert found["broker"]["verdict"] == "fault"
    assert "cannot reach" in found["broker"]["text"]


def test_an_agent_that_does_not_run_now(device, examined):
    (device / "state" / "lock").touch()
    save(device, DeviceState(generation=4), Inventory(protections=("rlimits", "seccomp")))
    found = examined()
    assert found["agent"]["text"] == "does not run"
    assert found["state"]["text"].endswith("generation 4")
    assert "without no_new_privs, mdwe, landlock, memory_limit" in found["protections"]["text"]
    assert found["runtime"]["verdict"] == "fault"


def test_a_state_of_a_newer_agent(device, examined):
    save(device, DeviceState())
    with sqlite3.connect(device / "state" / "state.db") as db:
        db.execute("UPDATE meta SET value = 99")
        db.execute("PRAGMA user_version = 99")
    assert "newer agent" in examined()["state"]["text"]


def test_damaged_content_is_found_and_left_for_the_agent_to_heal(device, examined):
    path, ref = put_bundle(device)
    save(device, DeviceState(models=(ModelRecord("m", active=ref, is_confirmed=True),)))
    assert "manifest.json" in examined()["content"]["text"]  # whole, but no manifest
    path.write_bytes(b"[]")
    assert "changed on disk" in examined()["content"]["text"]
    assert path.exists()
    path.unlink()
    assert "cannot be read" in examined()["content"]["text"]


def test_a_name_to_leave_out_that_is_no_column_is_a_warning(device, examined):
    bundle = make_bundle(b"m" * 500)
    install(ContentStore(device / "state"), bundle)
    ref = bundle.assignment.ref
    save(device, DeviceState(models=(ModelRecord("digits", active=ref, is_confirmed=True),)))
    config, found = device / "agent.toml", {}
    plain = config.read_text()
    for name in ("X", "age"):
        config.write_text(f'{plain}[capture]\nleave_out = ["{name}"]\n')
        found[name] = examined()["capture"]
    assert (found["X"]["verdict"], found["age"]["verdict"]) == ("ok", "warning")
    assert "(digits without X); 0 rows kept" in found["X"]["text"]
    assert "(digits NOTHING is kept: age in leave_out is no column of it" in found["age"]["text"]


def test_another_program_on_the_port_is_no_runtime(device, examined):
    save(device, DeviceState())
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = (device / "agent.toml").read_text().splitlines()
        config[5] = f'listen = "127.0.0.1:{server.getsockname()[1]}"'
        (device / "agent.toml").write_text("\n".join(config))
        assert "does not answer" in examined()["runtime"]["text"]
