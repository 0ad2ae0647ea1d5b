"""Configurations that cannot be, and places that are taken: refused before anything is touched."""

import fcntl
import os
import socket

import pytest

from tests.conformance.repository import Repository
from tests.spine.processes import free_port
from tests.spine.soundness import check_complaint, run

pytestmark = pytest.mark.slow

AGENT = """
[device]
id = "cam-0"
[broker]
url = "mqtt://127.0.0.1:1"
[serve]
listen = "127.0.0.1:{port}"
[state]
dir = "state"
[trust]
root = "root.json"
"""
AGENT_FILES = {
    "empty": ("", "device: is missing"),
    "no-toml": ("hello", "'='"),
    "binary": (b"\xff\xfe\x00", "utf-8"),
    "nul": ("\0", "line 1"),
    "cut": ('[device]\nid = "cam-0', "Unterminated string"),
    "no-url": ('[device]\nid = "x"\n[broker]\n', "broker.url: is missing"),
    "twice": ('[device]\nid = "x"\nid = "y"\n', "line 3"),
    "unknown-table": (AGENT + "[sevre]\n", "sevre: unknown key"),
    "unknown-key": (AGENT.replace("listen", "listne"), "serve.listne: unknown key"),
    "no-id": (AGENT.replace("cam-0", "cam 0"), "device.id"),
    "number-for-text": (AGENT.replace('"cam-0"', "7"), "device.id"),
    "text-for-number": (AGENT + '[telemetry]\ninterval_s = "often"\n', "telemetry.interval_s"),
    "nan": (AGENT + "[telemetry]\ninterval_s = nan\n", "telemetry.interval_s"),
    "too-often": (AGENT + "[telemetry]\ninterval_s = 0.01\n", "telemetry.interval_s"),
    "foreign-scheme": (AGENT.replace("mqtt:", "http:"), "mqtt://HOST:PORT"),
    "port-0": (AGENT.replace(":1", ":0", 1).replace("1:1", "1:0"), "broker.url"),
    "port-99999": (AGENT.replace('0.1:1"', '0.1:99999"'), "broker.url"),
    "listen-without-port": (AGENT.replace(":{port}", ""), "serve.listen"),
    "listen-99999": (AGENT.replace("{port}", "99999"), "serve.listen"),
    "listen-0": (AGENT.replace("{port}", "0"), "serve.listen"),
    "swap": (AGENT.replace("[state]", 'swap = "slowly"\n[state]'), "serve.swap"),
    "nul-in-path": (AGENT.replace('"state"', r'"a\u0000b"'), "state.dir"),
    "no-certificates": (AGENT.replace("[serve]", 'ca = "x.pem"\n[serve]'), "broker.ca"),
    "no-certificate-in-it": (AGENT.replace("[serve]", 'ca = "agent.toml"\n[serve]'), "broker.ca"),
}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(path, content):
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content.replace("{port}", "18999"))
    return path


def test_an_agent_that_has_not_enrolled_says_how(tmp_path):
    write(tmp_path / "agent.toml", '[device]\nid = "x"\n[state]\ndir = "state"\n')
    said = run(tmp_path, "fleet-agent", "run", "--config", "agent.toml")
    check_complaint(said, "x has not enrolled", "fleet device token NAME")


@pytest.mark.parametrize(("content", "says"), AGENT_FILES.values(), ids=AGENT_FILES)
def test_an_agent_refuses_to_start_with_it_and_names_file_and_key(tmp_path, content, says):
    path = write(tmp_path / "agent.toml", content)
    before = path.read_bytes()
    check_complaint(
        run(tmp_path, "fleet-agent", "run", "--config", "agent.toml"), "agent.toml", says
    )
    assert (names(tmp_path), path.read_bytes()) == (["agent.toml"], before)


@pytest.mark.parametrize(
    ("argument", "says"),
    [("none.toml", "No such file"), (".", "Is a directory"), ("agent.toml/x", "Not a directory")],
)
def test_an_agent_without_its_file_says_how_to_get_one(tmp_path, argument, says):
    write(tmp_path / "agent.toml", AGENT)
    ended = run(tmp_path, "fleet-agent", "run", "--config", argument)
    check_complaint(ended, argument, says, "fleet device add")


HINTS = ("`fleet init` writes one with every key", "use 127.0.0.1")
FLEET_FILES = {
    "no-toml": ("hello", "="),
    "binary": (b"\xff\xfe\x00", "utf-8"),
    "cut": ("[broker", "']'"),
    "unknown-table": ("[brocker]\n", "brocker: unknown key"),
    "unknown-key": ("[api]\nport = 1\n", "api.port: unknown key"),
    "root": ('root = "/"\n', "root: unknown key"),
    "kind": ('[broker]\nkind = "rabbit"\n', "broker.kind"),
    "no-url": ('[broker]\nurl = "127.0.0.1:1883"\n', "mqtt://HOST:PORT"),
    "port-0": ('[broker]\nurl = "mqtt://127.0.0.1:0"\n', "broker.url"),
    "elsewhere": ('[broker]\nurl = "mqtt://10.0.0.1:1883"\n', 'kind = "external"'),
    "listen-nowhere": ('[api]\nlisten = "here"\n', "api.listen"),
    "listen-70000": ('[api]\nlisten = "127.0.0.1:70000"\n', "api.listen"),
    "open": ('[api]\nlisten = "0.0.0.0:8700"\n', "open to the network"),
    "number": ("[store]\ndir = 7\n", "store.dir"),
    "nul-in-path": ('[store]\ndir = "a\\u0000b"\n', "store.dir"),
}


@pytest.mark.parametrize(("content", "says"), FLEET_FILES.values(), ids=FLEET_FILES)
def test_a_fleet_does_not_come_up_with_it_and_says_why(tmp_path, content, says):
    write(tmp_path / "fleet.toml", content)
    ended = run(tmp_path, "fleet", "up")
    check_complaint(ended, says, HINTS["open" in says])
    assert "fleet.toml" in ended.text or "[api] listen" in ended.text
    assert names(tmp_path) == ["fleet.toml"]


def test_a_command_without_a_fleet_says_how_to_make_one(tmp_path):
    check_complaint(run(tmp_path, "fleet", "devices"), "fleet.toml", "fleet init")
    (tmp_path / "fleet.toml").mkdir()
    check_complaint(run(tmp_path, "fleet", "devices"), "fleet.toml", "directory")
    (tmp_path / "fleet.toml").rmdir()
    check_complaint(run(tmp_path, "fleet", "init", "f", "--broker", "mqtt://127.0.0.1:0"), ":0'")
    assert run(tmp_path, "fleet", "init", "f", "--broker", "mqtt://127.0.0.1:1").code == 0
    again = run(tmp_path, "fleet", "init", "f", "--broker", "mqtt://127.0.0.1:1")
    check_complaint(again, "fleet.toml exists already", "another directory")


@pytest.fixture
def taken():
    """A port of loopback that another program, we, listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        listener.listen()
        yield listener


def agent(tmp_path, **changes):
    text = AGENT.replace("{port}", str(changes.pop("port", None) or free_port()))
    for key, value in changes.items():
        text = text.replace("[state]", f'{key} = "{value}"\n[state]')
    write(tmp_path / "agent.toml", text)
    (tmp_path / "root.json").write_bytes(Repository().bootstrap)
    return run(tmp_path, "fleet-agent", "run", "--config", "agent.toml")


def test_an_agent_without_a_root_of_trust_says_how_to_get_one(tmp_path):
    text = AGENT.replace("{port}", str(free_port()))
    write(tmp_path / "agent.toml", text)
    ended = run(tmp_path, "fleet-agent", "run", "--config", "agent.toml")
    check_complaint(ended, "root.json", "No such file", "[trust] root names it")
    write(tmp_path / "agent.toml", text.partition("[trust]")[0])
    ended = run(tmp_path, "fleet-agent", "run", "--config", "agent.toml")
    check_complaint(ended, "no root of trust", "[trust] root")
    assert names(tmp_path) == ["agent.toml"]


def test_an_agent_names_the_port_that_is_taken(tmp_path, taken):
    port = taken.getsockname()[1]
    check_complaint(agent(tmp_path, port=port), f"port {port}", "another program", "[serve] listen")


def test_an_agent_names_the_socket_that_another_program_listens_on(tmp_path):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "a.sock"))
        other.listen()
        ended = agent(tmp_path, socket="a.sock")
        check_complaint(ended, "a.sock", "another program listens there", "[serve] socket")
        with socket.socket(socket.AF_UNIX) as still:
            still.connect(str(tmp_path / "a.sock"))


def test_an_agent_removes_no_file_that_is_in_the_place_of_its_socket(tmp_path):
    (tmp_path / "a.sock").write_text("precious")
    check_complaint(agent(tmp_path, socket="a.sock"), "a.sock", "in use", "[serve] socket")
    assert (tmp_path / "a.sock").read_text() == "precious"
    check_complaint(agent(tmp_path, socket="x" * 200), "x" * 200, "107 bytes")


def test_an_agent_names_the_state_that_another_agent_uses(tmp_path):
    (tmp_path / "state").mkdir()
    with (tmp_path / "state" / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        check_complaint(agent(tmp_path), "another agent already uses", "state", "[state] dir")
    assert names(tmp_path / "state") == ["lock"]


def test_an_agent_names_the_state_that_is_no_directory(tmp_path):
    (tmp_path / "state").write_text("precious")
    check_complaint(agent(tmp_path), "cannot write", "state", "[state] dir")
    assert (tmp_path / "state").read_text() == "precious"


def fleet(tmp_path, *, broker, api, devices=None):
    text = f'[broker]\nurl = "mqtt://127.0.0.1:{broker}"\n[api]\nlisten = "127.0.0.1:{api}"\n'
    text += f'[devices]\nlisten = "127.0.0.1:{devices or free_port()}"\n'
    write(tmp_path / "fleet.toml", text)
    return run(tmp_path, "fleet", "up")


@pytest.mark.broker
def test_a_fleet_names_the_port_of_the_api_and_leaves_no_broker_behind(tmp_path, taken):
    broker, port = free_port(), taken.getsockname()[1]
    ended = fleet(tmp_path, broker=broker, api=port)
    check_complaint(ended, f"the API cannot listen on 127.0.0.1:{port}", "fleet down")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", broker))


@pytest.mark.broker
def test_a_fleet_names_the_port_of_the_listener_for_devices(tmp_path, taken):
    port = taken.getsockname()[1]
    ended = fleet(tmp_path, broker=free_port(), api=free_port(), devices=port)
    check_complaint(
        ended, f"the listener for devices cannot listen on 127.0.0.1:{port}", "[devices] listen"
    )


@pytest.mark.broker
def test_a_fleet_names_the_port_of_the_broker(tmp_path, taken):
    port = taken.getsockname()[1]
    ended = fleet(tmp_path, broker=port, api=free_port())
    check_complaint(ended, f"the broker cannot listen on 127.0.0.1:{port}", "[broker] url")


@pytest.mark.broker
def test_a_fleet_that_is_up_is_not_started_again(tmp_path):
    (tmp_path / "store").mkdir()
    with (tmp_path / "store" / "fleet.pid").open("w") as lease:
        lease.write(f"{os.getpid()}\n")
        lease.flush()
        fcntl.flock(lease, fcntl.LOCK_EX)
        ended = fleet(tmp_path, broker=free_port(), api=free_port())
        check_complaint(ended, f"already up (process {os.getpid()})", "fleet down")
    assert names(tmp_path / "store") == ["fleet.pid"]
