"""The attacker: a broker that says what it likes to the one agent that connects to it.

It speaks as little MQTT 3.1.1 as it takes to be believed, plain or inside WebSocket frames.
"""

import base64
import contextlib
import hashlib
import itertools
import socket
import struct
import threading

CONNECT, PUBLISH, PUBACK, SUBSCRIBE = 0x10, 0x30, 0x40, 0x82
CONNACK_GOOD = bytes([0x20, 2, 0, 0])
GREETING = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BLOCK = b"x" * 60_000


def remaining_length(number):
    """Return a length as MQTT writes it: seven bits a byte, lowest first."""
    out = bytearray()
    while True:
        number, low = divmod(number, 128)
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def packet(kind, body):
    return bytes([kind]) + remaining_length(len(body)) + body


def publish_head(topic, payload_bytes, *, qos=0, mid=1):
    """Return a PUBLISH up to its payload, which the caller sends or does not."""
    name = topic.encode()
    variable = struct.pack("!H", len(name)) + name + (struct.pack("!H", mid) if qos else b"")
    return bytes([PUBLISH | qos << 1]) + remaining_length(len(variable) + payload_bytes) + variable


class Session:
    """One connection of the agent, from its CONNECT on."""

    def __init__(self, connection, *, is_websocket):
        self._socket = connection
        self._is_websocket = is_websocket
        self._plain = bytearray()
        if is_websocket:
            self._greet()
        kind, _ = self.receive()
        assert kind == CONNECT, kind
        self.send(CONNACK_GOOD)

    def send(self, data):
        """Send bytes of MQTT, in a WebSocket frame of their own where there are such."""
        self.send_raw((self.frame_head(len(data)) if self._is_websocket else b"") + data)

    def send_raw(self, data):
        self._socket.sendall(data)

    def send_much(self, byte_count):
        """Send so many bytes, in pieces."""
        for left in range(byte_count, 0, -len(BLOCK)):
            self.send(BLOCK[:left])

    def receive(self):
        """Return the kind and the body of the next packet."""
        kind = self._take(1)[0]
        length = shift = 0
        while True:
            byte = self._take(1)[0]
            length |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                return kind, self._take(length)

    def until_published(self, *words):
        """Return when the agent has published something with all these words in it."""
        while True:
            kind, body = self.receive()
            if kind & 0xF0 == PUBLISH and all(word.encode() in body for word in words):
                return

    @staticmethod
    def frame_head(length):
        """Return the head of a binary frame that declares a length."""
        return b"\x82\x7f" + struct.pack("!Q", length)

    def _greet(self):
        request = bytearray()
        while not request.endswith(b"\r\n\r\n"):
            request += self._socket.recv(1)
        fields = dict(line.split(": ", 1) for line in request.decode().split("\r\n")[1:-2])
        key = next(value for name, value in fields.items() if name.lower() == "sec-websocket-key")
        digest = hashlib.sha1((key + GUID).encode()).digest()  # noqa: S324 - RFC 6455 says so
        accept = base64.b64encode(digest).decode()
        self._socket.sendall(GREETING.format(accept=accept).encode())

    def _take(self, count):
        while len(self._plain) < count:
            self._plain += self._read_frame() if self._is_websocket else self._read(1, 65_536)
        data = bytes(self._plain[:count])
        del self._plain[:count]
        return data

    def _read_frame(self):
        _, short = self._read(2, 2)
        length = short & 127
        if length >= 126:
            size = 2 if length == 126 else 8
            length = int.from_bytes(self._read(size, size), "big")
        mask = self._read(4, 4)
        data = self._read(length, length) if length else b""
        return bytes(byte ^ key for byte, key in zip(data, itertools.cycle(mask), strict=False))

    def _read(self, least, most):
        data = bytearray()
        while len(data) < least:
            more = self._socket.recv(most - len(data))
            if not more:
                raise ConnectionAbortedError
            data += more
        return bytes(data)


class HostileBroker:
    """Listens on loopback and attacks whoever connects. A context manager.

    Args:
        attack: Called with each session; what it raises when the agent hangs up is no fault.
    """

    def __init__(self, attack, *, is_websocket=False):
        self._attack = attack
        self._is_websocket = is_websocket
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # the end of the test
                return
            connection.settimeout(60)
            with connection, contextlib.suppress(ConnectionError):
                self._attack(Session(connection, is_websocket=self._is_websocket))
