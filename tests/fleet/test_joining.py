"""The invitations that `fleet` makes: bound to the root.json of whoever invites, whatever the controller says."""

import hashlib
import json
import tomllib

import pytest
from typer.testing import CliRunner

from agent.config import load_config
from fleet.cli.main import app
from fleet.settings import write_settings
from tests.conformance.repository import Repository
from tests.fleet.rogue import Rogue

DEVICE, BARE = "cam-01", f"mfjoin_{'1' * 64}_{'2' * 64}"
FOREIGN = "f" * 64
ROOT = Repository().bootstrap
DIGEST = hashlib.sha256(ROOT).hexdigest()
TOKEN, ADD = ("device", "token", DEVICE), ("device", "add", DEVICE)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory without a fleet, with nothing in the environment."""
    for name in ("FLEET_KEYS", "FLEET_CONTROLLER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=[BARE, f"{BARE}_{FOREIGN}"], ids=["true", "taken over"])
def controller(request):
    """A controller's answers; one that was taken over binds the device to a root of its own."""
    said = {
        "device": DEVICE,
        "url": "https://h$(x):1",
        "token": request.param,
        "expires_unix_ms": 1,
    }
    answers = {
        f"/v1/devices/{DEVICE}/tokens": json.dumps(said).encode(),
        "/v1/devices": lambda body: _added(json.loads(body)),
    }
    with Rogue(None, answers) as rogue:
        yield rogue


def _added(asked):
    more = {"state": "never_seen"}
    rows = [row | more for row in asked] if isinstance(asked, list) else asked | more
    return json.dumps(rows).encode()


def run(controller, *words):
    argv = [*map(str, words), "--controller", controller.url]
    return CliRunner().invoke(app, argv, catch_exceptions=True)


def printed(done):
    assert done.exit_code == 0, done.output
    return done.output.partition("--token ")[2].split()[0]


def in_fleet(place, _environment):
    write_settings(place, kind="mosquitto", url="mqtt://127.0.0.1:1", listen="127.0.0.1:1")
    (place / "root.json").write_bytes(ROOT)
    return ()


def beside_keys(place, environment):
    (place / "keys").mkdir()
    (place / "keys/root.json").write_bytes(ROOT)
    environment.setenv("FLEET_KEYS", str(place / "keys"))
    return ()


def named(place, _environment):
    (place / "mine.json").write_bytes(ROOT)
    return ("--root", place / "mine.json")


@pytest.mark.parametrize("have", [in_fleet, beside_keys, named])
def test_a_token_is_bound_to_the_root_at_hand(place, controller, monkeypatch, have):
    more = have(place, monkeypatch)
    assert printed(run(controller, *TOKEN, *more)) == f"{BARE}_{DIGEST}"


def test_without_a_root_at_hand_the_token_is_not_bound_and_that_is_told(place, controller):
    done = run(controller, *TOKEN)
    assert printed(done) == BARE
    assert "on trust; --root root.json binds it" in done.output


def test_what_is_to_be_typed_on_the_device_is_one_word_each(place, controller):
    assert "--url 'https://h$(x):1' --token" in run(controller, *TOKEN).output


@pytest.mark.parametrize("data", [b"", b"{}", ROOT[:-9], None])
def test_a_root_that_is_none_binds_nobody(place, controller, data):
    path = place / "root.json"
    if data is not None:
        path.write_bytes(data)
    done = run(controller, *TOKEN, "--root", path)
    assert done.exception.code == "root_unreadable"
    assert "--root root.json" in done.exception.hint
    assert controller.heard == []


def test_the_file_of_a_new_device_has_the_bound_token(place, controller, monkeypatch):
    in_fleet(place, monkeypatch)
    assert run(controller, *ADD, "--output", "a.toml").exit_code == 0
    (place / "many.csv").write_text(f"id\n{DEVICE}\n")
    many = ("device", "add", "--from", "many.csv", "--output-dir", "many")
    assert run(controller, *many).exit_code == 0
    for path in (place / "a.toml", place / f"many/{DEVICE}.toml"):
        assert tomllib.loads(path.read_text())["enroll"]["token"] == f"{BARE}_{DIGEST}"
        assert load_config(path).enroll is not None
        assert "only where the root of trust is the fleet's own" in path.read_text()
    (place / "root.json").write_bytes(b"")
    paths = controller.paths()
    assert run(controller, *ADD, "--output", "b.toml").exception.code == "root_unreadable"
    assert controller.paths() == paths, "a device was added"
