"""A killed supervisor leaves nobody on its port, not even a runtime that had only begun to start."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from agent.adapters.listeners import open_listeners
from agent.ports import RuntimeSettings
from wire.errors import ConfigError


def settings(address):
    return RuntimeSettings(
        listen=address, socket=None, swap="overlap", start_timeout_s=10, drain_s=1,
        request_deadline_s=10, inherited={},
    )  # fmt: skip


def test_a_runtime_whose_supervisor_ended_before_it_could_tell_ends_itself():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        runtime = subprocess.run(
            [sys.executable, "-m", "agent.runtime", "--control", str(theirs.fileno()),
             "--parent", str(ended.pid)],
            pass_fds=[theirs.fileno()], capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
    assert runtime.returncode == 1
    assert runtime.stderr == "the supervisor is gone\n"
    assert os.getpid() != ended.pid


def test_an_address_that_is_about_to_be_free_is_waited_for():
    taken = socket.create_server(("127.0.0.1", 0))
    address = taken.getsockname()
    leaving = threading.Timer(0.3, taken.close)
    leaving.start()
    (ours,) = open_listeners(settings(address))
    leaving.join()
    with ours:
        assert ours.getsockname() == address


def test_an_address_that_stays_taken_is_not():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigError, match="is taken by another program"),
    ):
        open_listeners(settings(taken.getsockname()))
