"""What the tests of a whole machine share: a Debian tree, wheelhouses, a fleet beside a device."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.system.device import BIN, ROOT, Fleet, Network

DEVICE_PACKAGES = ("systemd", "dbus", "python3", "python3-venv")
"""What a device has: neither an index nor a compiler, and no package of ours."""


def missing(reason):
    """Leave the test out and say so; in CI, which has to have everything, fail."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@pytest.fixture(scope="session")
def containers():
    """Require what it takes to make and boot a machine here."""
    if os.geteuid() != 0:
        missing("not root: nothing was installed on a device")
    names = ("debootstrap", "systemd-nspawn", "nsenter", "unshare", "setpriv")
    if absent := [name for name in names if shutil.which(name) is None]:
        missing(f"{', '.join(absent)} not installed: nothing was installed on a device")
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    if probe.returncode:
        missing(f"no network namespace to be had: {probe.stderr.decode()}")


@pytest.fixture(scope="session")
def debian_tree(containers):
    """Return a function that makes the tree of a Debian 12 with some packages; not to be changed."""

    def make(*packages):
        made = subprocess.run(
            [ROOT / "tests/system/debian_tree.sh", *packages],
            stdout=subprocess.PIPE, text=True, timeout=600, check=True,
        )  # fmt: skip
        return Path(made.stdout.strip())

    return make


@pytest.fixture(scope="session")
def outside_network():
    """Require a way to the package index, which a machine with loopback alone has not."""
    up = [name for name, nic in psutil.net_if_stats().items() if nic.isup and name != "lo"]
    if not up:
        missing("no network but loopback: no wheelhouse was made")


@pytest.fixture(scope="session")
def wheelhouse(outside_network, tmp_path_factory):
    """Return a function that makes a wheelhouse, of this tree or of one with another version."""

    def make(*, arch="x86_64", python="3.11", version=None, added=()):
        root = tmp_path_factory.mktemp("wheelhouse")
        source = ROOT
        if version is not None:
            source = root / "source"
            _copy_source(source, version, dict(added))
        output = root / f"wheelhouse-{version or 'now'}"
        done = subprocess.run(
            [sys.executable, source / "systemd/wheelhouse.py", "--arch", arch, "--python", python,
             "--output", output],
            capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return output

    return make


def _copy_source(target, version, added):
    listed = subprocess.run(
        ["git", "ls-files", "agent", "converter", "fleet", "wire", "systemd", "*.toml", "LICENSE",
         "README.md", "requirements.lock"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.split():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)
    project = target / "pyproject.toml"
    text, count = re.subn(r'(?m)^version = ".*"$', f'version = "{version}"', project.read_text())
    assert count == 1
    project.write_text(text)
    for name, more in added.items():
        with (target / name).open("a") as file:
            file.write(more)


@pytest.fixture(scope="session")
def digits_bundle(tmp_path_factory):
    """A real model, trained and converted: digits 1.0.0."""
    root = tmp_path_factory.mktemp("digits")
    bundle = root / "digits-1.0.0.bundle"
    for command in (
        [sys.executable, ROOT / "examples/digits/train.py"],
        [BIN / "fleet", "convert", "model.skops", "--name", "digits", "--version", "1.0.0",
         "--data", "digits.npz", "--output", bundle],
    ):  # fmt: skip
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return bundle


@pytest.fixture(scope="module")
def network(containers):
    found = Network()
    yield found
    found.close()


@pytest.fixture(scope="module")
def fleet(network, digits_bundle, tmp_path_factory):
    """A fleet that is up and has released digits 1.0.0."""
    running = Fleet(tmp_path_factory.mktemp("fleet"), network)
    running.up()
    running.fleet("push", digits_bundle)
    yield running
    running.down()
