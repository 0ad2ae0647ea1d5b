import pytest

from agent.config import check_certificates, load_config
from wire.errors import ConfigError

GOOD = """
[device]
id = "cam-01"
[broker]
url = "mqtt://127.0.0.1:1883"
"""


def write(tmp_path, text):
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return path


def test_defaults_and_relative_paths(tmp_path):
    config = load_config(write(tmp_path, GOOD + '[state]\ndir = "state"\n[serve]\nsocket = "s"\n'))
    assert config.serve.address == ("127.0.0.1", 8600)
    assert config.state.dir == tmp_path / "state"
    assert config.serve.socket == tmp_path / "s"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not toml", "agent.toml"),
        ("[broker]\nurl = 'mqtt://h'\n", "device: is missing"),
        (GOOD + "[enroll]\nurl = 'https://h:1'\n", "enroll.token: is missing"),
        (GOOD + "[enroll]\nurl = 'http://h:1'\ntoken = 'x'\n", "enroll.url"),
        (GOOD.replace("cam-01", "cam 01"), "device.id"),
        (GOOD.replace("mqtt://", "http://"), "mqtt://HOST:PORT"),
        (GOOD + "[serve]\nlisten = 'nowhere'\n", "serve.listen"),
        (GOOD + "[serve]\nlissten = '127.0.0.1:1'\n", "serve.lissten: unknown key"),
        (GOOD + "[serve]\nlisten = '127.0.0.1:0'\n", "serve.listen: '127.0.0.1:0' has no port"),
        (GOOD + "[serve]\nlisten = '127.0.0.1:65536'\n", "no port between 1 and 65535"),
        (GOOD.replace(":1883", ":0"), "broker.url"),
        (GOOD + "ca = 'nowhere.pem'\n", "nowhere.pem as certificates"),
        (GOOD + "ca = 'agent.toml'\n", "broker.ca"),
        (GOOD + '[state]\ndir = "a\\u0000b"\n', "state.dir: a path cannot"),
        (GOOD + "[telemetry]\ninterval_s = 0\n", "telemetry.interval_s"),
    ],
)
def test_every_fault_names_file_and_key(tmp_path, text, says):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        check_certificates(load_config(path), path)
    assert "agent.toml" in str(caught.value)
    assert says in str(caught.value)


def test_a_missing_file_says_how_to_get_one(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "none.toml")
    assert "fleet device add" in caught.value.hint
