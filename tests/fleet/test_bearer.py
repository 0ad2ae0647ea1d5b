"""Which token a command sends, and to whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet.cli.bearer import FILE_VARIABLE, TOKEN_VARIABLE, find_token
from fleet.settings import write_settings
from wire.errors import ConfigError

URL = "http://127.0.0.1:8701"


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (FILE_VARIABLE, TOKEN_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "myfleet"
    write_settings(root, kind="auto", url="mqtt://127.0.0.1:1884", listen="127.0.0.1:8701")
    (root / "admin.token").write_text("mft_own\n")
    return root


def test_the_file_comes_before_the_variable_and_that_before_the_fleets_own(
    fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_token(URL, fleet) == "mft_own"
    monkeypatch.setenv(TOKEN_VARIABLE, "mft_variable")
    assert find_token(URL, fleet) == "mft_variable"
    (tmp_path / "me.token").write_text("mft_file\n")
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "me.token"))
    assert find_token(URL, fleet) == "mft_file"


@pytest.mark.parametrize("url", ["http://evil.example:8701", "https://127.0.0.1:8701"])
def test_the_fleets_own_token_goes_to_the_fleets_own_api_only(fleet: Path, url: str) -> None:
    assert not find_token(url, fleet)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"mft_a b", None])
def test_a_file_without_a_token_is_named(
    fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    path = tmp_path / "bad.token"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    with pytest.raises(ConfigError, match=r"bad\.token") as caught:
        find_token(URL, fleet)
    assert caught.value.code == "token_unreadable"


@pytest.mark.parametrize(
    "url", ["http://fleet.example:8700", "http://10.0.0.1:8700", "http://127.0.0.1.example"]
)
def test_no_token_goes_over_a_network_in_clear(
    fleet: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "mft_variable")
    with pytest.raises(ConfigError) as caught:
        find_token(url, fleet)
    assert caught.value.code == "token_in_clear"
    assert find_token(url.replace("http:", "https:"), fleet) == "mft_variable"
    assert find_token("http://localhost:8700", fleet) == "mft_variable"
