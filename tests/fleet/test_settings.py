import pytest

from fleet.settings import (
    find_api_url,
    find_settings,
    parse_settings,
    require_settings,
    write_settings,
)
from wire.errors import ConfigError

URL = "mqtt://127.0.0.1:1884"


@pytest.fixture
def fleet(tmp_path):
    root = tmp_path / "myfleet"
    write_settings(root, kind="auto", url=URL, listen="127.0.0.1:8701")
    return root


@pytest.fixture(autouse=True)
def _no_controller(monkeypatch):
    monkeypatch.delenv("FLEET_CONTROLLER", raising=False)


def test_what_is_written_is_read_back_from_anywhere_below(fleet):
    deep = fleet / "a" / "b"
    deep.mkdir(parents=True)
    settings = find_settings(deep)
    assert settings.root == fleet
    assert (settings.broker.kind, settings.broker.url) == ("auto", URL)
    assert settings.api.address == ("127.0.0.1", 8701)
    assert settings.api_url == "http://127.0.0.1:8701"
    assert settings.store_dir == fleet / "store"
    assert settings.database == fleet / "store" / "fleet.db"
    settings.check_loopback()


def test_a_database_elsewhere_is_read_back_as_it_was_given(tmp_path):
    url = "postgresql://fleet@/fleet?host=/run/postgresql&application_name='x\"y'"
    write_settings(tmp_path, kind="auto", url=URL, listen="127.0.0.1:8701", store_url=url)
    settings = require_settings(tmp_path)
    assert settings.database == url
    assert settings.sqlite_path == settings.store_dir / "fleet.db"


def test_a_second_init_in_one_directory_is_refused_and_changes_nothing(fleet):
    before = (fleet / "fleet.toml").read_bytes()
    with pytest.raises(ConfigError) as caught:
        write_settings(fleet, kind="nats", url=URL, listen="127.0.0.1:9000")
    assert caught.value.code == "fleet_exists"
    assert (fleet / "fleet.toml").read_bytes() == before


@pytest.mark.parametrize("listen", ["0.0.0.0:8700", "192.168.1.5:8700", "[::]:8700", "host:8700"])
def test_the_network_is_refused_with_the_reason_and_nothing_is_written(tmp_path, listen):
    with pytest.raises(ConfigError, match="no TLS") as caught:
        write_settings(tmp_path / "f", kind="auto", url=URL, listen=listen)
    assert caught.value.code == "not_loopback"
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('[broker]\nurk = "x"', ["broker.urk", "unknown key"]),
        ("[colour]", ["colour", "unknown key"]),
        ('root = "/"', ["root", "unknown key"]),
        ('[broker]\nurl = "http://x"', ["broker.url", "mqtt://HOST:PORT"]),
        ('[broker]\nurl = "mqtt://127.0.0.1:99999"', ["broker.url"]),
        ("[broker]\nurl = 7", ["broker.url"]),
        ('[broker]\nkind = "rabbit"', ["broker.kind", "mosquitto"]),
        ('[broker]\nurl = "mqtt://10.0.0.1:1883"', ["broker", "external"]),
        ('[broker]\nkind = "nats"\nurl = "mqtts://10.0.0.1:8883"', ["hosts", "external"]),
        ('[api]\nlisten = "8700"', ["api.listen"]),
        ('[api]\nlisten = "127.0.0.1:0"', ["api.listen", "65535"]),
        ('[api]\nlisten = "127.0.0.1:70000"', ["api.listen", "65535"]),
        ("[api\n", ["line 1"]),
        ('[store]\nurl = "mysql://h/x"', ["store.url"]),
        ('[store]\nurl = "postgresql://h/x\\n"', ["store.url", "control characters"]),
        ('broker = "x"', ["broker"]),
    ],
)
def test_a_fault_names_the_file_and_the_key(tmp_path, text, names):
    path = tmp_path / "fleet.toml"
    with pytest.raises(ConfigError) as caught:
        parse_settings(text, path)
    assert caught.value.code == "config_invalid"
    for word in (str(path), *names):
        assert word in str(caught.value)


def test_an_own_broker_may_be_anywhere(tmp_path):
    text = '[broker]\nkind = "external"\nurl = "mqtts://broker.example:8883"'
    assert parse_settings(text, tmp_path / "fleet.toml").broker.kind == "external"


def test_no_file_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError) as caught:
        require_settings(tmp_path)
    assert caught.value.code == "no_fleet"
    assert "fleet init" in caught.value.hint


@pytest.mark.parametrize("content", [b"\xff\xfe", None], ids=["no-text", "a-directory"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "fleet.toml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"fleet\.toml") as caught:
        find_settings(tmp_path)
    assert caught.value.code == "config_unreadable"


def test_a_working_directory_that_is_gone_is_no_traceback(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="gone"):
        require_settings(None)


def test_the_api_is_found_by_option_then_environment_then_file(fleet, monkeypatch):
    assert find_api_url(None, fleet) == "http://127.0.0.1:8701"
    monkeypatch.setenv("FLEET_CONTROLLER", "http://env:1/")
    assert find_api_url(None, fleet) == "http://env:1"
    assert find_api_url("option:2", fleet) == "http://option:2"
    monkeypatch.setenv("FLEET_CONTROLLER", "")
    assert find_api_url(None, fleet) == "http://127.0.0.1:8701"
