"""MQTT 3.1.1 packets as bytes: enough to count what passes, and to publish without a client's cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK = 1, 2, 3, 4, 8, 9


@dataclass(frozen=True, slots=True)
class Packet:
    """One control packet; `body` is what follows the fixed header."""

    kind: int
    flags: int
    body: bytes

    @property
    def topic(self) -> str:
        """The topic of a PUBLISH."""
        return self.body[2 : 2 + int.from_bytes(self.body[:2], "big")].decode()

    @property
    def payload(self) -> bytes:
        """The payload of a PUBLISH."""
        has_number = bool(self.flags & 0b0110)
        return self.body[2 + int.from_bytes(self.body[:2], "big") + 2 * has_number :]

    @property
    def number(self) -> bytes:
        """The packet identifier of a PUBLISH with QoS 1, or of a PUBACK."""
        start = 2 + int.from_bytes(self.body[:2], "big") if self.kind == PUBLISH else 0
        return self.body[start : start + 2]


class Splitter:
    """Cuts a stream into packets."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Take bytes, and give the packets that are complete."""
        self._buffer += data
        while (end := self._packet_end()) is not None:
            first, start, stop = self._buffer[0], end[0], end[1]
            yield Packet(first >> 4, first & 15, bytes(self._buffer[start:stop]))
            del self._buffer[:stop]

    def _packet_end(self) -> tuple[int, int] | None:
        length = 0
        for place in range(1, 5):
            if place >= len(self._buffer):
                return None
            byte = self._buffer[place]
            length |= (byte & 127) << (7 * (place - 1))
            if byte < 128:
                stop = place + 1 + length
                return (place + 1, stop) if stop <= len(self._buffer) else None
        raise ValueError("no MQTT packet has a length of five bytes")


def connect(client: str) -> bytes:
    """Return a CONNECT with a clean session and a keep-alive of 60 s."""
    return _packet(CONNECT, 0, b"\x00\x04MQTT\x04\x02\x00\x3c" + _text(client))


def subscribe(topic: str, qos: int) -> bytes:
    """Return a SUBSCRIBE of one filter."""
    return _packet(SUBSCRIBE, 2, b"\x00\x01" + _text(topic) + bytes([qos]))


def publish(topic: str, payload: bytes, number: int) -> bytes:
    """Return a PUBLISH with QoS 1."""
    return _packet(PUBLISH, 2, _text(topic) + number.to_bytes(2, "big") + payload)


def puback(number: bytes) -> bytes:
    """Return a PUBACK."""
    return _packet(PUBACK, 0, number)


def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(2, "big") + raw


def _packet(kind: int, flags: int, body: bytes) -> bytes:
    length, rest = bytearray(), len(body)
    while True:
        rest, byte = rest >> 7, rest & 127
        length.append(byte | (128 if rest else 0))
        if not rest:
            return bytes([kind << 4 | flags]) + bytes(length) + body
