"""Receivers without our code, one per program, as floors for the fetcher.

    pulls.py paho   PORT DIGESTS_FILE       subscribe to chunks in a window of 8, drop each; with
                                            the files that `fleet observer pull` wrote here
    pulls.py socket FOLDER DIGESTS_FILE OUT the same bytes over one TCP connection into a file

Each prints the seconds from the first request to the last byte; `socket` syncs the file to disk.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

HOST = "127.0.0.1"
WINDOW = 8
BLOCK_BYTES = 256 * 1024


def pull_with_paho(port: int, digests: list[str]) -> float:
    """Return how long a bare paho client takes to be given these chunks."""
    arrived: queue.SimpleQueue[str] = queue.SimpleQueue()
    connected = threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="bench-pull")
    client.on_connect = lambda *_: connected.set()
    client.on_message = lambda _client, _data, message: arrived.put(message.topic)
    client.tls_set("ca.pem", "pull.pem", "pull.key")
    client.connect(HOST, port)
    if (opened := client.socket()) is not None:
        with socket.socket(fileno=os.dup(opened.fileno())) as same:  # as our link does
            same.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.loop_start()
    connected.wait(10)
    wanted = [f"fleet/v1/chunk/{digest}" for digest in digests]
    began_s = time.perf_counter()
    client.subscribe([(topic, 0) for topic in wanted[:WINDOW]])
    for topic in [*wanted[WINDOW:], *[""] * min(WINDOW, len(wanted))]:
        client.unsubscribe(arrived.get(timeout=30))
        if topic:
            client.subscribe(topic, 0)
    took_s = time.perf_counter() - began_s
    client.disconnect()
    client.loop_stop()
    return took_s


def pull_over_socket(folder: Path, digests: list[str], target: Path) -> float:
    """Return how long these bytes take over one connection into one file, synced."""
    payloads = [(folder / digest[:2] / digest).read_bytes() for digest in digests]
    listener = socket.create_server((HOST, 0))

    def give() -> None:
        connection, _ = listener.accept()
        with connection:
            for payload in payloads:
                connection.sendall(payload)

    threading.Thread(target=give, daemon=True).start()
    began_s = time.perf_counter()
    with socket.create_connection(listener.getsockname()[:2]) as source, target.open("wb") as file:
        while data := source.recv(BLOCK_BYTES):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began_s


def main() -> None:
    """Pull as the command line says."""
    kind, where, listing = sys.argv[1:4]
    digests = Path(listing).read_text().split()
    if kind == "paho":
        print(pull_with_paho(int(where), digests))
    else:
        print(pull_over_socket(Path(where), digests, Path(sys.argv[4])))


if __name__ == "__main__":
    main()
