"""What `make wheelhouse` collects: all that a device needs and nothing that it does not."""

import hashlib
import json
import re
import struct
import tomllib
import zipfile

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import parse_wheel_filename

from tests.system.device import ROOT

ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
TRAINING = {"scikit-learn", "skl2onnx", "onnx", "skops", "scipy", "sqlalchemy", "fastapi", "pytest"}

pytestmark = [pytest.mark.system, pytest.mark.slow]


def machines(wheel):
    """Return the ELF machines of the libraries in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        heads = [archive.read(name)[:20] for name in archive.namelist() if ".so" in name]
    return {struct.unpack_from("<H", head, 18)[0] for head in heads if head.startswith(b"\x7fELF")}


@pytest.mark.parametrize(("arch", "python"), [("aarch64", "3.11"), ("aarch64", "3.13")])
def test_it_is_whole_for_an_architecture_and_python_that_are_not_here(wheelhouse, arch, python):
    house = wheelhouse(arch=arch, python=python)
    wheels = {parse_wheel_filename(path.name)[0]: path for path in (house / "wheels").iterdir()}
    assert set().union(*map(machines, wheels.values())) == {ELF_MACHINES[arch]}
    native = [name for name, path in wheels.items() if machines(path)]
    assert {"numpy", "onnxruntime", "pydantic-core", "uvloop"} <= set(native)
    tag = "cp" + python.replace(".", "")
    assert tag in wheels["numpy"].name
    assert not wheels.keys() & TRAINING

    # The reduced lock names exactly these files, and the project's lock knows every one of them.
    reduced = (house / "requirements.lock").read_text()
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in wheels.items()}
    assert set(re.findall(r"sha256:(\w+)", reduced)) == set(digests.values())
    known = (ROOT / "requirements.lock").read_text()
    assert [name for name in digests if digests[name] not in known] == ["modelfleet"]

    # So does the bill of materials, with what each of them needs.
    bill = (house / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    parts = [json.loads(bill)["metadata"]["component"], *json.loads(bill)["components"]]
    assert {part["name"]: part["hashes"][0]["content"] for part in parts} == digests

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (
        f"VERSION={version}\nARCH={arch}\nPYTHON_VERSION={python}\n"
        in (house / "wheelhouse.conf").read_text()
    )
    assert (house / "install.sh").stat().st_mode & 0o111
