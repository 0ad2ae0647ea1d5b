"""The commands of docs/keys.md, executed as they stand there, against the real programs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fleet.bundles import bundle
from tests.spine.soundness import absent

DOCUMENT = (Path(__file__).parents[3] / "docs" / "keys.md").read_text()
BLOCK = re.compile(
    r"(?:^<!-- keys: needs (?P<needs>[^\n]*?) -->\n)?^```sh\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL
)  # fmt: skip
MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
)

TIMEOUT_S = 900
"""For what hangs; it takes about 40 s on an idle machine."""

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S + 60)]


def script(*, with_token: bool) -> str:
    """Return the blocks one after the other, and what proves that they did what is said."""
    blocks = [
        block["text"] for block in BLOCK.finditer(DOCUMENT) if with_token or not block["needs"]
    ]
    assert len(blocks) >= 10
    return "\n".join(
        [
            "set -euo pipefail",
            "trap 'fleet down --fleet myfleet >/dev/null 2>&1 || fleet down' EXIT",
            *(f"echo '--- block {n}' >&2\n{text}" for n, text in enumerate(blocks, start=1)),
            "echo '--- result' >&2",
            "fleet keys show --json > ../keys.json",
            "fleet releases digits --json > ../releases.json",
        ]
    )


def test_every_command_of_the_page_on_keys_runs_as_it_stands(tmp_path: Path) -> None:
    module = next((path for path in MODULES if Path(path).exists()), None)
    has_token = all((module, shutil.which("softhsm2-util"), shutil.which("pkcs11-tool")))
    for name in ("A", "B", "tokens"):
        (tmp_path / name).mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    work = tmp_path / "work"
    (work / "myfleet").mkdir(parents=True)
    for version in ("1.0.0", "2.0.0"):
        path = work / "myfleet" / f"digits-{version}.bundle"
        path.write_bytes(bundle(version))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("FLEET_")},
        "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}",
        "A": str(tmp_path / "A"),
        "B": str(tmp_path / "B"),
        "PYKCS11LIB": module or "",
        "SOFTHSM2_CONF": str(tmp_path / "softhsm2.conf"),
    }
    ended = subprocess.run(
        ["bash", "-c", script(with_token=has_token)],
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    roles = {row["role"]: row for row in json.loads((work / "keys.json").read_text())}
    assert {name: len(row["keys"]) for name, row in roles.items()} == dict.fromkeys(roles, 1)
    assert not any(key["is_here"] for key in roles["model-digits"]["keys"]), "the team's"
    assert roles["root"]["keys"][0]["is_here"]
    releases = {row["version"]: row for row in json.loads((work / "releases.json").read_text())}
    assert (releases["1.0.0"]["number"], releases["2.0.0"]["number"]) == (None, 2)
    if not has_token:
        absent("keys on a token: softhsm2 or opensc (pkcs11-tool) is not installed")
    assert roles["root"]["keys"][0]["scheme"] == "ecdsa-sha2-nistp256"
