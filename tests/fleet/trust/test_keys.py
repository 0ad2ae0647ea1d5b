"""Keys in files and on tokens."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.trust.keys import KeyFolder, read_public
from tests.spine.soundness import absent
from wire.errors import ConfigError

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
)
PIN = "1234"


def says(secret: str) -> Callable[[str], str]:
    return lambda _: secret


def test_a_private_key_is_encrypted_and_for_its_owner_alone(tmp_path: Path) -> None:
    keys = KeyFolder(tmp_path / "offline", says("right"), says(""))
    file = keys.make("root")
    pem = tmp_path / "offline" / f"{file.name}.pem"
    assert pem.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert stat.S_IMODE(pem.stat().st_mode) == 0o600
    again = KeyFolder(tmp_path / "offline", says("right"), says(""))
    signature = again.signer(again.files()[file.key.keyid]).sign(b"text")
    file.key.verify_signature(signature, b"text")


def test_a_wrong_passphrase_is_named(tmp_path: Path) -> None:
    file = KeyFolder(tmp_path, says("right"), says("")).make("root")
    with pytest.raises(ConfigError, match=f"{file.name}.pem") as refusal:
        KeyFolder(tmp_path, says("wrong"), says("")).signer(file)
    assert refusal.value.code == "passphrase_wrong"
    assert "FLEET_PASSPHRASE" in refusal.value.hint


def test_a_new_key_gets_the_passphrase_of_the_others_or_is_not_made(tmp_path: Path) -> None:
    KeyFolder(tmp_path, says("right"), says("")).make("root")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError) as refusal:
        KeyFolder(tmp_path, says("rihgt"), says("")).make("targets")
    assert refusal.value.code == "passphrase_wrong"
    assert sorted(tmp_path.iterdir()) == before


def test_a_passphrase_is_asked_for_once(tmp_path: Path) -> None:
    asked = []

    def ask(what: str) -> str:
        asked.append(what)
        return "right"

    keys = KeyFolder(tmp_path / "offline", ask, ask)
    for role in ("root", "targets"):
        keys.signer(keys.make(role))
    again = KeyFolder(tmp_path / "offline", ask, ask)
    assert len(again.signers(set(again.files()))) == 2
    assert len(asked) == 2
    assert asked[0].startswith("new passphrase"), "the first one is typed twice"
    assert not asked[1].startswith("new ")


def test_a_folder_that_is_locked_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere") as refusal:
        KeyFolder(tmp_path / "nowhere", says(""), says("")).files()
    assert refusal.value.code == "keys_missing"
    assert "--keys" in refusal.value.hint


def test_a_private_half_that_is_gone_or_anothers_is_named(tmp_path: Path) -> None:
    keys = KeyFolder(tmp_path, says("x"), says(""))
    one, two = keys.make("root"), keys.make("targets")
    shutil.copy(tmp_path / f"{one.name}.pem", tmp_path / f"{two.name}.pem")
    with pytest.raises(ConfigError, match="not the private half"):
        KeyFolder(tmp_path, says("x"), says("")).signer(two)
    (tmp_path / f"{one.name}.pem").unlink()
    with pytest.raises(ConfigError, match="second copy"):
        raise_hint(KeyFolder(tmp_path, says("x"), says("")), one)


def raise_hint(keys: KeyFolder, file: object) -> None:
    try:
        keys.signer(file)  # type: ignore[arg-type] - it is one
    except ConfigError as exc:
        raise ConfigError(exc.hint, code=exc.code) from exc


@pytest.mark.parametrize(
    "change",
    [{"keyid": "0" * 64}, {"scheme": "rsassa-pss-sha256"}, {"keyval": {}}, {"uri": 7}],
    ids=["another-id", "another-scheme", "no-key", "odd-uri"],
)
def test_what_is_no_public_key_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    file = KeyFolder(tmp_path, says("x"), says("")).make("root")
    path = tmp_path / f"{file.name}.pub"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError) as refusal:
        read_public(path)
    assert refusal.value.code == "key_unreadable"


def test_a_key_on_a_token_signs(tmp_path: Path) -> None:
    module = next((path for path in MODULES if Path(path).exists()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        absent("keys on a token: softhsm2 is not installed")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    # A process of its own: the module reads its configuration once.
    program = f"""
import pkcs11
from pathlib import Path
from fleet.trust.keys import KeyFolder
from wire.errors import ConfigError
token = pkcs11.lib({module!r}).get_token(token_label="fleet")
with token.open(user_pin={PIN!r}, rw=True) as session:
    curve = pkcs11.util.ec.encode_named_curve_parameters("secp256r1")
    parameters = session.create_domain_parameters(
        pkcs11.KeyType.EC, {{pkcs11.Attribute.EC_PARAMS: curve}}, local=True)
    parameters.generate_keypair(store=True, id=b"\\x02", label="root")
keys = KeyFolder(Path({str(tmp_path / "keys")!r}), lambda _: "", lambda _: {PIN!r})
file = keys.take_from_token("root", 2, "fleet")
assert keys.files()[file.key.keyid].is_on_token
file.key.verify_signature(keys.signer(file).sign(b"text"), b"text")
assert file.key.scheme == "ecdsa-sha2-nistp256"
for number, pin in ((2, "4321"), (3, {PIN!r})):
    locked = KeyFolder(Path({str(tmp_path / "other")!r}), lambda _: "", lambda _: pin)
    try:
        if number == 2:
            locked.signer(file).sign(b"text")
        else:
            locked.take_from_token("root", number, "fleet")
    except ConfigError as exc:
        assert exc.code == "token_unusable", exc
    else:
        raise AssertionError(f"key {{number}} with PIN {{pin}}")
print("signed")
"""
    environment = {
        **os.environ,
        "SOFTHSM2_CONF": str(tmp_path / "conf"),
        "PYKCS11LIB": module,
    }
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", "fleet", "--so-pin", PIN,
         "--pin", PIN],
        env=environment, check=True, capture_output=True,
    )  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-c", "import pkcs11.util.ec\n" + program],
        env=environment, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.stdout == "signed\n", ended.stderr
