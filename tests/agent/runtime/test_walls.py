"""Each protection that a runtime reports denies what it claims: tried from inside (`intruder.py`).

The same attempts without a wall are the control: what is not possible there proves nothing.
"""

import json
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.runtime import seccomp
from tests.agent.runtime import intruder

pytestmark = pytest.mark.skipif(
    platform.machine() not in seccomp._ARCHES, reason="NOT TESTED: no filter for this architecture"
)

READS = {
    "read a foreign file", "list a foreign directory", "read the supervisor's memory",
    "read the supervisor's environment", "read the machine's settings",
}  # fmt: skip
WRITES = {
    "make a file", "write a model", "append to a model", "write beside the models", "cut a model",
    "move a model", "delete a model", "make a directory", "make a link",
}  # fmt: skip
CALLS = {
    "open a socket", "connect a socket", "bind a socket", "fork", "execute",
    "signal the supervisor", "signal a thread of the supervisor",
    "queue a signal to the supervisor", "limit the supervisor", "slow the supervisor",
    "read by process_vm_readv", "outlive the supervisor", "type into the terminal",
    "set up io_uring", "new namespaces",
}  # fmt: skip
OWNERSHIP = {"change who may read a model", "give a model away"}
"""By a descriptor that may only read; Landlock knows no such right."""
CODE = {"map written and executable", "execute what was written"}
LIMITS = {"write a large file", "take all descriptors"}
MEMORY = {"take 300 MiB"}
CLAIMS = {
    "landlock": READS | WRITES | {"bind a socket"},
    "seccomp": WRITES | CALLS | OWNERSHIP,
    "mdwe": CODE,
    "rlimits": LIMITS,
    "memory_limit": MEMORY,
}
MATTERS = WRITES | OWNERSHIP | CODE | {"read a foreign file", "fork", "open a socket", "execute"}
NO = {"EPERM", "EACCES"}
REFUSALS = {"rlimits": {"EFBIG", "EMFILE"}, "memory_limit": {"MemoryError"}}


def tried(wall, tmp_path):
    """Return what an intruder behind a wall tells."""
    models = tmp_path / wall / "models"
    models.mkdir(parents=True)
    (models / "model").write_text("a model")
    (models / "spare").write_text("another")
    (tmp_path / wall / "secret").write_text("a secret")
    done = subprocess.run(
        [sys.executable, str(Path(intruder.__file__)), wall, str(tmp_path / wall)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == -signal.SIGABRT, done.stderr
    said = json.loads(done.stdout)
    assert said["model"] == "a model", "what it is there for, it may read"
    assert said["thread"], "and it may have threads"
    return said


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    said = tried("none", tmp_path_factory.mktemp("control"))
    denied = {name for name, what in said["tried"].items() if what in NO}
    # What this machine denies to everybody; the claims that matter must not be among them.
    assert not denied & MATTERS
    assert said["tried"]["take 300 MiB"] == "allowed"
    return said


@pytest.mark.parametrize("wall", ["landlock", "seccomp", "memory_limit", "all"])
def test_what_is_named_active_denies_what_it_claims(wall, control, tmp_path):
    said = tried(wall, tmp_path)
    if not said["active"]:
        pytest.skip(f"NOT TESTED: this kernel has no {wall}")
    for name in said["active"]:
        for claim in CLAIMS.get(name, ()):
            assert said["tried"][claim] in REFUSALS.get(name, NO), (name, claim)
    claimed = set().union(*(CLAIMS.get(name, set()) for name in said["active"]))
    claimed |= {"connect a socket"}  # Landlock denies it from kernel 6.7 on
    others = {name: what for name, what in said["tried"].items() if name not in claimed}
    # The control tells what each wall does: without it, the rest goes as if there were none.
    assert others == {name: control["tried"][name] for name in others}


def test_every_call_of_the_filters_list_is_denied(tmp_path):
    said = tried("seccomp", tmp_path)
    assert len(said["filter"]) > 60
    assert {name: what for name, what in said["filter"].items() if what != "EPERM"} == {}


def test_what_is_reported_is_what_the_kernel_says(tmp_path):
    said = tried("all", tmp_path)
    assert {"rlimits", "no_new_privs"} <= set(said["active"])
    assert said["core"] == [0, 0]
    assert (said["status"]["NoNewPrivs"] == "1") is ("no_new_privs" in said["active"])
    assert (said["status"]["Seccomp"] == "2") is ("seccomp" in said["active"])
