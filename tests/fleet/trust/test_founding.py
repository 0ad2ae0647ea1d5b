"""`fleet init` and the keys that it makes: one command, no question, signed from the beginning."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fleet.store.store import Store
from fleet.trust.keys import KeyFolder
from fleet.trust.stored import load
from tests.fleet.trust.device import DeviceSight

pytestmark = pytest.mark.slow

DAY_MS = 24 * 3_600_000


def fleet(folder: Path, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLEET_")} | variables
    return subprocess.run(
        [Path(sys.prefix) / "bin" / "fleet", *args],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def opens(keys: Path, secret: str) -> set[str]:
    """Return the roles whose keys a passphrase opens."""
    folder = KeyFolder(keys, lambda _: secret, lambda _: "")
    return {
        file.name.partition("-")[0]
        for file in folder.files().values()
        if folder.signer(file).sign(b"text")
    }


def test_one_command_makes_all_keys_and_the_first_documents(tmp_path: Path) -> None:
    done = fleet(tmp_path, "init", "myfleet")
    assert done.returncode == 0, done.stderr
    home = tmp_path / "myfleet"
    assert str(home / "offline") in done.stdout
    secret = (home / "offline" / "passphrase").read_text().strip()
    assert len(secret) >= 32
    assert opens(home / "offline", secret) == {"root", "targets"}
    private = [
        *(home / "offline").glob("*.pem"), home / "offline" / "passphrase",
        *(home / "store" / "trust").glob("*.pem"),
    ]  # fmt: skip
    assert len(private) == 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    store = Store(home / "store" / "fleet.db", home / "store")
    root = (home / "root.json").read_bytes()
    assert DeviceSight(store, root, tmp_path / "device").number("digits", "1.0.0") is None
    with store.read() as tx:
        repository = load(tx)
    store.close()
    assert repository is not None
    year_ms = repository.root.signed.expires.timestamp() * 1000 - time.time() * 1000
    assert 364 * DAY_MS < year_ms < 366 * DAY_MS


def test_a_passphrase_of_ones_own_lies_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("my own\n")
    media = tmp_path / "media"
    done = fleet(
        tmp_path, "init", "myfleet", "--keys", str(media), "--passphrase-file", "secret"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (media / "passphrase").exists()
    assert not (tmp_path / "myfleet" / "offline").exists()
    assert opens(media, "my own") == {"root", "targets"}
    by_variable = fleet(tmp_path, "init", "other", FLEET_PASSPHRASE="another")  # noqa: S106 - made here
    assert by_variable.returncode == 0, by_variable.stderr
    assert opens(tmp_path / "other" / "offline", "another") == {"root", "targets"}


def test_keys_are_made_once(tmp_path: Path) -> None:
    assert fleet(tmp_path, "init", "myfleet").returncode == 0
    before = sorted(path.name for path in (tmp_path / "myfleet" / "offline").iterdir())
    again = fleet(tmp_path / "myfleet", "keys", "found")
    assert (again.returncode, "has its keys" in again.stderr) == (1, True)
    (tmp_path / "myfleet" / "root.json").unlink()
    other = fleet(tmp_path / "myfleet", "keys", "found", "--keys", str(tmp_path / "second"))
    assert (other.returncode, "trust metadata already" in other.stderr) == (1, True)
    assert sorted(p.name for p in (tmp_path / "myfleet" / "offline").iterdir()) == before
    assert not (tmp_path / "myfleet" / "root.json").exists()


def test_what_a_signing_command_lacks_is_named(tmp_path: Path) -> None:
    nowhere = fleet(tmp_path, "keys", "renew")
    assert (nowhere.returncode, "FLEET_CONTROLLER" in nowhere.stderr or "fleet init" in nowhere.stderr) == (1, True)  # fmt: skip
    (tmp_path / "empty").write_text("")
    empty = fleet(tmp_path, "init", "myfleet", "--passphrase-file", "empty")
    assert (empty.returncode, "empty" in empty.stderr) == (1, True)
    assert not (tmp_path / "myfleet").exists(), "nothing was begun"
