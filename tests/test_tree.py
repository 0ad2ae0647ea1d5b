"""The tree against what the documents say of it."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 450
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/runbook.md",
    "docs/reliability.md",
)
NO_NAMES = {"utils", "helpers", "common", "base", "manager"}
NO_PATHS = ("fleet/v1/", "event/", "telemetry/", "dist/", "demo-run/", "docs/decisions/NNNN")
# Topics, what a run makes, and a pattern.
PROGRAMS = ("agent", "converter", "fleet", "wire")


def tracked(*patterns):
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file()]


def test_no_python_file_is_too_long_and_none_has_a_name_that_says_nothing():
    files = tracked("*.py")
    assert len(files) > 100
    lengths = {path.relative_to(ROOT): path.read_text().count("\n") for path in files}
    assert [str(path) for path, length in lengths.items() if length > MAX_LINES] == []
    assert [str(path) for path in lengths if path.stem in NO_NAMES] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_path_that_a_document_names_is_there(name):
    text = (ROOT / name).read_text()
    named = set(re.findall(r"`([a-z.]+/[A-Za-z0-9_./-]+)`", text))
    named |= {link for link in re.findall(r"\]\(([^)#:]+)\)", text) if "//" not in link}
    paths = [path for path in named if not path.startswith(NO_PATHS)]
    assert [p for p in paths if not any((ROOT / base / p).exists() for base in ("", "docs"))] == []


def test_every_package_and_module_group_of_the_architecture_exists():
    text = (ROOT / "docs/architecture.md").read_text()
    for program in PROGRAMS:
        assert f"`{program}/`" in text
        assert (ROOT / program / "__init__.py").is_file()
