"""The HTTP client of the benchmarks: keep-alive, no retry, next to no cost of its own.

As a program it prints JSON; it is run apart from the benchmarks so that it can be placed on a core:

    load.py rate   PORT PATH BODY_FILE --connections N --seconds S [--core C]
    load.py watch  PORT PATH BODY_FILE --output FILE [--new-connections] [--pause SECONDS]

`rate` measures latency and throughput. `watch` asks one after the other until SIGTERM and then
writes an array: of each answered request its end, its latency (both in seconds of the monotonic
clock) and its HTTP status, 0 for none.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import json
import os
import select
import signal
import socket
import time
from pathlib import Path

HOST = "127.0.0.1"
LENGTH = b"content-length: "


def request_bytes(path: str, body: bytes) -> bytes:
    """Return a whole request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def is_whole(data: bytes) -> bool:
    """Return whether these bytes are a whole response."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    start = data.find(LENGTH)
    if start < 0:
        start = data.lower().find(LENGTH)
    length = int(data[start + len(LENGTH) : data.find(b"\r", start)])
    return len(data) >= end + 4 + length


class Asker:
    """One connection that asks the same again and again; `answer` is the newest response."""

    def __init__(self, port: int, request: bytes, *, timeout_s: float = 30.0) -> None:
        self._address = (HOST, port)
        self._request = request
        self._timeout_s = timeout_s
        self.answer = b""
        self.socket: socket.socket | None = None

    def connect(self) -> socket.socket:
        """Open the connection."""
        self.socket = socket.create_connection(self._address, self._timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.socket

    def ask(self) -> int:
        """Return the status of the answer, 0 when there was none; then the connection is closed."""
        try:
            connection = self.socket or self.connect()
            connection.sendall(self._request)
            data = connection.recv(65536)
            while data and not is_whole(data):
                part = connection.recv(65536)
                if not part:
                    data = b""
                data += part
        except OSError:
            data = b""
        self.answer = data
        if not data:
            self.close()
            return 0
        return int(data[9:12])

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        if self.socket is not None:
            self.socket.close()
        self.socket = None


def measure_one(port: int, request: bytes, seconds: float) -> dict[str, object]:
    """Return the latencies of one connection, in seconds, sorted."""
    asker = Asker(port, request)
    failed = sum(asker.ask() != 200 for _ in range(50))
    latencies = array.array("d")
    clock = time.perf_counter
    now = clock()
    end = now + seconds
    while now < end:
        began = now
        status = asker.ask()
        now = clock()
        latencies.append(now - began)
        failed += status != 200
    ordered = sorted(latencies)
    return {
        "count": len(ordered),
        "failed": failed,
        "p50_us": ordered[len(ordered) // 2] * 1e6,
        "p99_us": ordered[len(ordered) * 99 // 100] * 1e6,
        "rate": len(ordered) / seconds,
    }


def measure_many(port: int, request: bytes, seconds: float, connections: int) -> dict[str, object]:
    """Return the rate of answers over several connections, each with one question at a time."""
    askers = [Asker(port, request) for _ in range(connections)]
    failed = sum(asker.ask() != 200 for asker in askers for _ in range(10))
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    for asker in askers:
        connection = asker.socket or asker.connect()
        sockets[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLIN)
    parts = dict.fromkeys(sockets, b"")
    cpu_s, began_s, count = time.process_time(), time.perf_counter(), 0
    for connection in sockets.values():
        connection.sendall(request)
    while time.perf_counter() - began_s < seconds:
        for number, _ in poll.poll(1.0):
            data = parts[number] + sockets[number].recv(65536)
            if not is_whole(data):
                parts[number] = data
                continue
            parts[number] = b""
            count += 1
            failed += data[9:12] != b"200"
            sockets[number].sendall(request)
    took_s = time.perf_counter() - began_s
    client_ratio = (time.process_time() - cpu_s) / took_s
    return {"count": count, "failed": failed, "rate": count / took_s, "client_ratio": client_ratio}


def watch(port: int, request: bytes, *, is_new: bool, pause_s: float) -> array.array[float]:
    """Ask until SIGTERM; return end, latency and status of each request, one after the other."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    asker = Asker(port, request)
    rows = array.array("d")
    clock = time.monotonic
    while not ended:
        began = clock()
        status = asker.ask()
        now = clock()
        rows.extend((now, now - began, float(status)))
        if is_new:
            asker.close()
        if pause_s:
            time.sleep(pause_s)
    return rows


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description="The HTTP client of the benchmarks")
    parser.add_argument("mode", choices=("rate", "watch"))
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("body", type=Path)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--core", type=int)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--new-connections", action="store_true")
    parser.add_argument("--pause", type=float, default=0.0)
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    request = request_bytes(options.path, options.body.read_bytes())
    if options.mode == "watch":
        rows = watch(options.port, request, is_new=options.new_connections, pause_s=options.pause)
        options.output.write_bytes(rows.tobytes())
    elif options.connections == 1:
        print(json.dumps(measure_one(options.port, request, options.seconds)))
    else:
        with contextlib.suppress(KeyboardInterrupt):
            result = measure_many(options.port, request, options.seconds, options.connections)
            print(json.dumps(result))


if __name__ == "__main__":
    main()
