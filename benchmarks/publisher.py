"""A fleet's telemetry at full speed: prebuilt records, sent on as their acknowledgements come.

    publisher.py PORT DEVICES RECORDS WINDOW BOOT

One MQTT connection speaks for DEVICES devices named cam-00, cam-01 and so on. Each sends RECORDS
records with QoS 1 and has at most WINDOW without the controller's acknowledgement, as an agent does.
Prints JSON: seconds from the first to the last acknowledgement, and how many records never got one.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections.abc import Iterator

from mqtt_frames import (
    CONNACK,
    PUBLISH,
    SUBACK,
    Packet,
    Splitter,
    connect,
    puback,
    publish,
    subscribe,
)

HOST = "127.0.0.1"
GIVE_UP_S = 5.0
"""After this long without any acknowledgement the rest counts as lost."""
NUMBERS = 65_535

RECORD = (
    '{{"v":1,"boot":"{boot}","seq":{seq},"start_unix_ms":1795582051965,"duration_s":60.001,'
    '"model":"digits","version":"1.0.0","manifest":"{manifest}","request_count":2875,'
    '"row_count":2875,"error_count":{{"runtime":0,"deadline":0,"client":3,"non_finite":0}},'
    '"latency_ms":{{"p50":0.081,"p99":0.262}}}}'
)


class Fleet:
    """The connection and what is under way on it."""

    def __init__(self, port: int, devices: list[str], records: int, window: int, boot: str) -> None:
        self._socket = socket.create_connection((HOST, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._splitter = Splitter()
        self._window = window
        self._packets: dict[str, Iterator[bytes]] = {
            device: iter(_prebuilt(device, records, boot, n)) for n, device in enumerate(devices)
        }
        self._open = dict.fromkeys(devices, 0)
        self.missing = len(devices) * records

    def introduce(self) -> None:
        """Connect, and listen for acknowledgements."""
        self._socket.sendall(connect("bench-publisher"))
        self._await(CONNACK)
        self._socket.sendall(subscribe("fleet/v1/device/+/ack", 1))
        self._await(SUBACK)

    def send_all(self) -> float:
        """Send everything; return the seconds until the last acknowledgement."""
        self._socket.setblocking(False)
        began_s = last_s = time.perf_counter()
        outgoing = bytearray()
        for device in self._packets:
            outgoing += self._next(device)
        while self.missing and time.perf_counter() - last_s < GIVE_UP_S:
            readable, writable, _ = select.select(
                [self._socket], [self._socket] if outgoing else [], [], 0.5
            )
            if readable:
                data = self._socket.recv(256 * 1024)
                for packet in self._splitter.feed(data):
                    if packet.kind == PUBLISH:
                        last_s = time.perf_counter()
                        outgoing += puback(packet.number) + self._acknowledged(packet)
            if writable:
                del outgoing[: self._socket.send(outgoing)]
        return last_s - began_s

    def _acknowledged(self, packet: Packet) -> bytes:
        device = packet.topic.split("/")[3]
        count = sum(
            span["last"] - span["first"] + 1 for span in json.loads(packet.payload)["stored"]
        )
        self._open[device] -= count
        self.missing -= count
        return self._next(device)

    def _next(self, device: str) -> bytes:
        packets = []
        for packet in self._packets[device]:
            packets.append(packet)
            self._open[device] += 1
            if self._open[device] >= self._window:
                break
        return b"".join(packets)

    def _await(self, kind: int) -> None:
        while not any(p.kind == kind for p in self._splitter.feed(self._socket.recv(4096))):
            pass


def _prebuilt(device: str, records: int, boot: str, number: int) -> list[bytes]:
    topic, manifest = f"fleet/v1/device/{device}/telemetry/inference", "ab" * 32
    return [
        publish(
            topic,
            RECORD.format(boot=boot, seq=seq, manifest=manifest).encode(),
            (number * records + seq) % NUMBERS + 1,
        )
        for seq in range(1, records + 1)
    ]


def main() -> None:
    """Send as the command line says."""
    port, devices, records, window = (int(part) for part in sys.argv[1:5])
    names = [f"cam-{number:02}" for number in range(devices)]
    fleet = Fleet(port, names, records, window, sys.argv[5])
    fleet.introduce()
    seconds = fleet.send_all()
    print(json.dumps({"seconds": seconds, "lost": fleet.missing}))


if __name__ == "__main__":
    main()
