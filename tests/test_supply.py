"""What the project is made of: locked, listed, and looked up for known faults or said not to be."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import util
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from agent.trust import BUILD_UNIX_MS

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {"requirements.lock": 80, ".ci/audit.lock": 20, ".ci/fuzz.lock": 1, ".ci/interop.lock": 30}
"""Each with how many entries it has at least."""
BUILD_AGE_DAYS = 30
"""So much earlier than it was built may a release believe it is, on a device without a clock."""
PIN = re.compile(r"([A-Za-z0-9._-]+)==(\S+)(?: ; [^\\]+)?((?: --hash=sha256:[0-9a-f]{64})+)")


def loaded(path):
    spec = util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = util.module_from_spec(spec)
    # dataclasses look their module up there
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


audit, sbom = loaded(".ci/audit.py"), loaded("systemd/sbom.py")


def pins(lock):
    """Return name to versions, each exact and with hashes; some depend on the Python."""
    found = {}
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / lock).read_text())
    for line in text.replace("\\\n", "").splitlines():
        entry = " ".join(line.split())
        match = PIN.fullmatch(entry)
        assert match, f"{lock}: {entry[:100]!r} is no exact version with sha-256 hashes"
        found.setdefault(canonicalize_name(match[1]), set()).add(match[2])
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_exact_versions_with_hashes_only(lock):
    assert len(pins(lock)) >= LOCKS[lock]


def requirements(*, apart):
    """Return what pyproject.toml asks for: by the extras and groups locked apart, or by all else."""
    project, groups = PYPROJECT["project"], PYPROJECT["dependency-groups"]
    extras = project["optional-dependencies"]
    if apart:
        return [*(text for name in sbom.APART for text in extras[name]), *groups["interop"]]
    return [
        *PYPROJECT["build-system"]["requires"],
        *project["dependencies"],
        *(text for name, texts in extras.items() if name not in sbom.APART for text in texts),
        *groups["dev"],
    ]


@pytest.mark.parametrize(
    ("lock", "apart"), [("requirements.lock", False), (".ci/interop.lock", True)]
)
def test_every_dependency_is_in_the_lock_at_a_version_that_it_allows(lock, apart):
    project, locked = PYPROJECT["project"], pins(lock)
    for need in map(Requirement, requirements(apart=apart)):
        if need.name == project["name"]:  # an extra that has another one in it
            assert need.extras <= set(project["optional-dependencies"])
            continue
        versions = locked.get(canonicalize_name(need.name), set())
        assert versions, f"{need} is not in {lock}"
        assert all(map(need.specifier.contains, versions)), f"{need}, but the lock has {versions}"


def test_the_bill_of_materials_is_valid_and_names_all_that_the_extras_need():
    described = sbom._described("modelfleet")
    pieces = sbom.installed(described)
    document = sbom.bill(pieces)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None
    assert document == sbom.bill(reversed(pieces))
    named = {part["name"]: part["version"] for part in document["components"]}
    locked = pins("requirements.lock")
    assert [name for name, version in named.items() if version not in locked[name]] == []
    for need in PYPROJECT["project"]["dependencies"]:
        assert canonicalize_name(Requirement(need).name) in named
    assert {"onnxruntime", "scikit-learn", "fastapi", "python-pkcs11"} <= named.keys()
    assert not {"pytest", "ruff", "cyclonedx-python-lib"} & named.keys()
    needs = {entry["ref"].split("@")[0]: entry["dependsOn"] for entry in document["dependencies"]}
    assert any("urllib3" in reference for reference in needs["pkg:pypi/tuf"])


def test_the_time_that_a_build_believes_without_a_clock_is_near_that_of_its_sources():
    command = ["git", "log", "-1", "--format=%ct"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if told.returncode != 0:
        pytest.skip("not a git checkout")
    age_days = (int(told.stdout) - BUILD_UNIX_MS // 1000) / 86_400
    assert age_days >= 0, "BUILD_UNIX_MS is in the future: metadata that is good would have expired"
    assert age_days <= BUILD_AGE_DAYS, "set BUILD_UNIX_MS in agent/trust.py to the day of today"


FAULT = {"id": "PYSEC-1", "fix_versions": ["2.0"]}
GOOD = {"name": "a", "version": "1", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("entries", "code", "says"),
    [
        ([GOOD], audit.CLEAN, "1 of 1 packages looked up, 0 known"),
        ([GOOD | {"vulns": [FAULT]}], audit.VULNERABLE, "a 1: PYSEC-1, fixed in 2.0"),
        ([GOOD, SKIPPED], audit.NOT_AUDITED, "NOT AUDITED: the advisory database"),
        ([GOOD | {"vulns": [FAULT]}, SKIPPED], audit.VULNERABLE, "nothing for b"),
        ([], audit.NOT_AUDITED, "NOT AUDITED"),
    ],
)
def test_what_was_not_looked_up_is_never_clean(entries, code, says):
    judged, lines = audit.judge({"dependencies": entries}, "")
    assert judged == code
    assert any(says in line for line in lines)


def test_without_pip_audit_or_its_database_nothing_passes():
    command = [sys.executable, str(ROOT / ".ci/audit.py"), "--python", sys.executable]
    # No proxy listens there: as on a machine without a network.
    nowhere = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | nowhere, check=False
    )
    assert done.returncode == audit.NOT_AUDITED
    assert "requirements.lock: NOT AUDITED" in done.stdout
    assert "interop.lock: NOT AUDITED" in done.stdout
    told = subprocess.run(
        [*command, "--may-be-unreachable"],
        capture_output=True,
        text=True,
        env=os.environ | nowhere,
        check=False,
    )
    assert (told.returncode, "NOT AUDITED" in told.stdout) == (0, True)
