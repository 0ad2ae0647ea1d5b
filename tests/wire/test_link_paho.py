"""What only the link over paho has: the state of its real socket."""

import queue
import socket

import pytest

from wire.link import Connected
from wire.link_paho import PahoLink

CONNACK = b"\x20\x02\x00\x00"


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        yield server


def test_small_packets_are_not_held_back(listener):
    events = queue.Queue()
    link = PahoLink(f"mqtt://127.0.0.1:{listener.getsockname()[1]}", "cam-01")
    link.start(events.put, lambda: None)
    broker, _ = listener.accept()
    with broker:
        assert broker.recv(1024)[0] >> 4 == 1, "a CONNECT comes first"
        broker.sendall(CONNACK)
        assert events.get(timeout=120) == Connected()
        ours = link._client.socket()
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        link.stop()
