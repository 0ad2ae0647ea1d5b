"""What the tests of the pipeline have in common."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fleet.pipeline.project import load_project
from tests.fleet.pipeline.projects import make_folder

FLEET = Path(sys.prefix) / "bin" / "fleet"


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "p")


@pytest.fixture
def project(folder):
    return load_project(folder)


@pytest.fixture
def make():
    return make_folder


class Told:
    """A listener that keeps what it is told."""

    def __init__(self):
        self.steps = []
        self.lines = []
        self.details = {}

    def began(self, step):
        pass

    def told(self, text):
        self.lines.append(text)

    def ended(self, step, detail):
        self.steps.append((step.name, step.state))
        self.details[step.name] = detail


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def fleet():
    """Return a function that runs `fleet`."""

    def run(*words, cwd=None, check=0):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FLEET_")}
        done = subprocess.run(
            [FLEET, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
        assert check is None or done.returncode == check, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def records():
    """Return a function that reads the records of a folder's runs."""

    def read(root):
        return [json.loads(path.read_bytes()) for path in sorted(root.glob("runs/*/run.json"))]

    return read
