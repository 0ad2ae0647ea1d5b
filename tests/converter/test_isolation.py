"""Converting needs no network and writes nothing but the bundle, seen from the kernel.

It runs in a network namespace of its own in which not even loopback is up, and without `CI`, which
keeps onnxruntime's wheels quiet.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier

from wire.bundle import read_bundle

pytestmark = [pytest.mark.system, pytest.mark.slow]

FLEET = Path(sys.prefix) / "bin" / "fleet"
CALLS = (
    "openat,open,creat,rename,renameat,renameat2,mkdir,mkdirat,link,linkat,symlink,symlinkat,"
    "unlink,unlinkat,truncate,connect,sendto,bind"
)
WRITES = re.compile(r"^\d+ +(?!openat?\()(\w+)\(|O_(?:WRONLY|RDWR|CREAT)")
HARMLESS = ("/dev/null", "/dev/tty", "/proc/self/")


@pytest.fixture
def alone(tmp_path, require_root, require_tools):
    """Return a function that runs a command without a network, and gives what it reached for."""
    for name in ("home", "tmp", "work"):
        (tmp_path / name).mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "LANG": "C.UTF-8",
        # The interpreter's own cache, beside its sources, is none of our business.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    trace = tmp_path / "trace"

    def run(*argv):
        strace = ["strace", "-f", "-qq", "-y", "-s", "4096", "-e", f"trace={CALLS}", "-o", trace]
        done = subprocess.run(
            ["unshare", "--net", *strace, *argv], cwd=tmp_path / "work", env=environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [line for line in trace.read_text().splitlines() if is_foreign(line, tmp_path)]

    return run


@pytest.fixture
def require_tools():
    names = [name for name in ("strace", "unshare") if shutil.which(name) is None]
    if names:
        reason = f"{', '.join(names)} not installed: that nothing else is written was NOT checked"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


def is_foreign(line, root):
    if re.match(r"\d+ +(connect|sendto|bind)\(", line):
        return True
    if not WRITES.search(line):
        return False
    base = re.search(r"\((?:AT_FDCWD|\d+)<([^>]*)>", line)
    for text in re.findall(r'"((?:[^"\\]|\\.)*)"', line):
        path = os.path.normpath(Path(base[1] if base else root / "work") / text)
        ours = tuple(f"{root / name}/" for name in ("work", "tmp"))
        if not f"{path}/".startswith((*ours, *HARMLESS)):
            return True
    return False


def nodes(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize(
    "code",
    [
        "open('../outside', 'w')",
        "import os; os.mkdir(os.path.expanduser('~/x'))",
        "import socket; socket.socket().connect_ex(('127.0.0.1', 9))",
        "import multiprocessing; multiprocessing.Lock()",
    ],
)
def test_the_watch_sees_what_is_foreign(alone, code):
    assert alone(sys.executable, "-c", code)


@pytest.mark.parametrize("kind", ["forest", "bagging", "onnx", "module"])
def test_without_a_network_nothing_is_written_but_the_bundle(
    alone, tmp_path, digits, doubling, kind
):
    work = tmp_path / "work"
    np.savez(work / "d.npz", X=digits.rows, y=digits.label)
    source = f"{kind}.skops"
    if kind == "forest":
        forest = RandomForestClassifier(10, n_jobs=4).fit(digits.rows, digits.label)
        skops.io.dump(forest, work / source)
    elif kind == "bagging":  # asks for processes
        bagging = BaggingClassifier(n_jobs=2).fit(digits.rows, digits.label)
        skops.io.dump(bagging, work / source)
    elif kind == "onnx":
        source = "m.onnx"
        (work / source).write_bytes(doubling.SerializeToString())
    else:
        source = "mine:make"
        (work / "mine.py").write_text(
            "def make():\n    from sklearn.tree import DecisionTreeRegressor as T\n"
            "    return T().fit([[0, 0, 0, 0], [1, 1, 1, 1]], [0, 1])\n"
        )
    before = nodes(work)
    argv = [FLEET, "convert", source, "--name", "m", "--version", "1", "--data", "d.npz"]
    assert "\n".join(alone(*argv)) == ""
    assert read_bundle(work / "m-1.bundle").manifest.name == "m"
    assert nodes(work) == sorted([*before, "m-1.bundle"])
    assert nodes(tmp_path / "tmp") == nodes(tmp_path / "home") == []
