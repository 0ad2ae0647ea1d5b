"""A relay between one agent and its broker that counts what really crosses."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter

from mqtt_frames import PUBLISH, Splitter
from programs import HOST


class Tap:
    """Listens for an agent, connects on to the broker, and counts the broker's packets to it.

    Attributes:
        port: Where the agent connects.
        payload_bytes: Of the messages that the agent received, by channel: "chunk" or "other".
        chunk_bytes: Payload length of each chunk that the agent received, by digest.
        wire_bytes: All bytes of the MQTT streams, both ways, by "down" and "up".
    """

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self.reset()
        threading.Thread(target=self._accept, name="tap", daemon=True).start()

    def reset(self) -> None:
        """Begin to count anew."""
        self.payload_bytes: Counter[str] = Counter()
        self.chunk_bytes: dict[str, int] = {}
        self.wire_bytes: Counter[str] = Counter()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                agent, _ = self._listener.accept()
            except OSError:
                return
            broker = socket.create_connection((HOST, self._broker_port))
            for end in (agent, broker):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for direction, source, target in (("up", agent, broker), ("down", broker, agent)):
                threading.Thread(
                    target=self._relay, args=(direction, source, target), daemon=True
                ).start()

    def _relay(self, direction: str, source: socket.socket, target: socket.socket) -> None:
        splitter = Splitter()
        with contextlib.suppress(OSError):
            while data := source.recv(256 * 1024):
                self.wire_bytes[direction] += len(data)
                if direction == "down":
                    self._count(splitter, data)
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _count(self, splitter: Splitter, data: bytes) -> None:
        for packet in splitter.feed(data):
            if packet.kind == PUBLISH:
                is_chunk = packet.topic.startswith("fleet/v1/chunk/")
                self.payload_bytes["chunk" if is_chunk else "other"] += len(packet.payload)
                if is_chunk:
                    self.chunk_bytes[packet.topic.rpartition("/")[2]] = len(packet.payload)
