import os
import socket

from agent.adapters.sdnotify import Notifier, inherited_sockets


def test_messages_reach_the_supervisor(tmp_path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        notifier = Notifier({"NOTIFY_SOCKET": str(path)})
        notifier.ready()
        notifier.status("serving digits 1.0.0")
        notifier.status("serving digits 1.0.0")
        notifier.watchdog()
        got = [server.recv(100) for _ in range(3)]
    assert got == [b"READY=1", b"STATUS=serving digits 1.0.0", b"WATCHDOG=1"]


def test_progress_within_a_turn_is_told_at_most_every_few_seconds(tmp_path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        notifier = Notifier({"NOTIFY_SOCKET": str(path)})
        for _ in range(1000):
            notifier.working()
        notifier.stopping()
        got = [server.recv(100) for _ in range(2)]
    assert got == [b"WATCHDOG=1\nEXTEND_TIMEOUT_USEC=60000000", b"STOPPING=1"]


def test_no_supervisor_and_a_vanished_one_are_both_fine(tmp_path):
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


def test_sockets_for_another_process_are_not_taken():
    assert inherited_sockets({"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "2"}) == {}
    assert inherited_sockets({}) == {}
