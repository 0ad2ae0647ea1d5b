"""`fleet convert --signature`: only what its author signed is converted, and the bundle says who."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.fleet.authors import Author
from wire.bundle import read_bundle

BLOCKED = """
import sys
sys.modules["model_signing"] = None
from fleet.cli.main import main
main()
"""
"""An installation without the extra."""


@pytest.fixture
def place(tmp_path, digits, doubling):
    """A directory with a signed model, and rows."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/m.onnx").write_bytes(doubling.SerializeToString())
    np.savez(tmp_path / "d.npz", X=digits.rows, y=digits.label)
    author = Author(tmp_path / "author")
    author.sign(tmp_path / "model", tmp_path / "model/model.sig")
    return tmp_path


ARGV = ("convert", "model/m.onnx", "--name", "m", "--version", "1.0.0", "--data", "d.npz")
SIGNATURE = ("--signature", "model/model.sig", "--public-key", "author/public.pem")


def test_the_lineage_names_who_signed_what_was_converted(fleet, place):
    done = fleet(*ARGV, *SIGNATURE, cwd=place, check=0)
    lineage = read_bundle(place / "m-1.0.0.bundle").manifest.lineage
    assert f"signed by  {lineage.source_signer}\n" in done.stdout
    material = json.loads((place / "model/model.sig").read_text())["verificationMaterial"]
    assert lineage.source_signer == f"key {material['publicKey']['hint']}"
    digest = hashlib.sha256((place / "model/m.onnx").read_bytes()).hexdigest()
    assert lineage.source_sha256 == digest


def test_what_was_changed_is_not_converted(fleet, place):
    with (place / "model/m.onnx").open("ab") as file:
        file.write(b"\x00")
    done = fleet(*ARGV, *SIGNATURE, cwd=place, check=1)
    assert "fleet: model/model.sig does not verify" in done.stderr
    assert "m.onnx" in done.stderr
    assert "reading" not in done.stderr
    assert not list(place.glob("*.bundle"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (SIGNATURE[:2], "give --public-key, or else"),
        pytest.param(
            (*SIGNATURE, "--certificate-chain", "author/authority.pem"),
            "give --public-key, or else",
            marks=pytest.mark.slow,
        ),
        pytest.param(SIGNATURE[2:], "go with it", marks=pytest.mark.slow),
    ],
)
def test_a_signature_and_what_to_hold_it_against_belong_together(fleet, place, options, says):
    assert says in " ".join(fleet(*ARGV, *options, cwd=place, check=2).stderr.split())


def test_without_the_extra_it_says_which(place):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *ARGV, *SIGNATURE],
        cwd=place, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 1
    assert "pip install 'modelfleet[model-signing]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(place.glob("*.bundle"))
