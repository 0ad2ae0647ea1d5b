"""Swaps under load: no request fails, and no client sees the old version after the new one."""

import http.client
import json
import socket
import threading
import time

import psutil
import pytest

from agent.runtime.drain import LINGER_S

BODY = json.dumps(
    {"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
).encode()
HEAD = (
    f"POST /v2/models/m/infer HTTP/1.1\r\nHost: d\r\nContent-Length: {len(BODY)}\r\n\r\n"
).encode()


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(self.path))


class Client(threading.Thread):
    """Asks without retry until told to stop; remembers every version and every failure."""

    def __init__(self, bench, kind, think_s):
        super().__init__(name=f"client-{kind}", daemon=True)
        self.bench, self.kind, self.think_s = bench, kind, think_s
        self.versions, self.failures = [], []
        self.ended = threading.Event()

    def connect(self):
        if self.kind == "unix":
            return UnixConnection(self.bench.socket)
        return http.client.HTTPConnection("127.0.0.1", self.bench.port, timeout=120)

    def run(self):
        ask = self.trickle if self.kind == "trickle" else self.plain
        connection = self.connect()
        while not self.ended.is_set():
            try:
                status, body = ask(connection)
                answer = json.loads(body)
                if status == 200:
                    self.versions.append(int(answer["model_version"]))
                    assert answer["outputs"][0]["data"] == [float(answer["model_version"])]
                else:
                    self.failures.append((status, answer))
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is a failure
                self.failures.append(repr(exc))
                connection.close()
                connection = self.connect()
            if self.kind == "new":
                connection.close()
            self.ended.wait(self.think_s)
        connection.close()

    def plain(self, connection):
        connection.request("POST", "/v2/models/m/infer", BODY)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def trickle(self, connection):
        """Send one request in four pieces."""
        if connection.sock is None:
            connection.connect()
        whole = HEAD + BODY
        for start in range(0, len(whole), len(whole) // 4 + 1):
            connection.sock.sendall(whole[start : start + len(whole) // 4 + 1])
            time.sleep(0.01)
        answer = http.client.HTTPResponse(connection.sock)
        answer.begin()
        return answer.status, answer.read()

    def stop(self):
        self.ended.set()
        self.join(30)
        return self


CLIENTS = [
    ("keep", 0.0),
    ("keep", 0.002),
    ("keep", 0.01),
    ("keep", 0.4),
    ("new", 0.002),
    ("unix", 0.005),
    ("trickle", 0.02),
]


@pytest.mark.parametrize(
    ("swap", "count"),
    [
        ("overlap", 3),
        ("replace", 3),
        pytest.param("overlap", 20, marks=pytest.mark.slow),
        pytest.param("replace", 20, marks=pytest.mark.slow),
    ],
)
def test_swaps_under_load(start_bench, make_model, record_property, swap, count):
    bench = start_bench(swap=swap)
    bench.serve(make_model("1"))
    models = [make_model(str(number)) for number in range(2, count + 2)]
    clients = [Client(bench, kind, think_s) for kind, think_s in CLIENTS]
    for client in clients:
        client.start()
    seen_by_all(clients, 1)
    for model in models:
        if swap == "overlap":
            bench.swap(model)
        else:
            bench.serve(model)
        seen_by_all(clients, int(model.version))
    for client in clients:
        client.stop()
    assert [c.failures for c in clients] == [[] for _ in clients]
    for client in clients:
        assert client.versions == sorted(client.versions), f"{client.name} went back"
        assert set(client.versions) == set(range(1, count + 2))
    record_property("requests", sum(len(c.versions) for c in clients))


def seen_by_all(clients, version, timeout_s=30):
    """Return when every client has been answered by `version`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if all(c.versions[-1:] == [version] or c.failures for c in clients):
            return
        time.sleep(0.01)
    raise AssertionError(f"{version} did not reach {[c.name for c in clients]}")


def answer_on(connection):
    """Read one answer; return the status and whether the connection stays open."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status, not answer.will_close


def test_a_request_that_is_on_its_way_at_the_end_is_answered(start_bench, make_model):
    for _ in range(10):
        bench = start_bench(drain_s=30)
        bench.serve(make_model("1"))
        # One that has never asked, one that has, and one that never will.
        fresh, used, silent = connections = [
            socket.create_connection(("127.0.0.1", bench.port), timeout=60) for _ in range(3)
        ]
        used.sendall(HEAD + BODY)
        assert answer_on(used) == (200, True)
        runtime = psutil.Process(bench.host._serving.pid)
        wait_for(lambda runtime=runtime: len(open_sockets(runtime, "ESTABLISHED")) >= 3)
        began_s = time.monotonic()
        ending = threading.Thread(target=bench.host.stop)
        ending.start()
        wait_for(lambda runtime=runtime: not open_sockets(runtime, "LISTEN"))
        for connection in (fresh, used):
            connection.sendall(HEAD + BODY)
        if time.monotonic() - began_s < LINGER_S:
            break  # else this machine was too busy to show anything
    assert answer_on(fresh) == (200, False)
    assert answer_on(used) == (200, False)
    assert silent.recv(1) == b""
    ending.join(60)
    assert not ending.is_alive()
    for connection in connections:
        connection.close()


def open_sockets(process, status):
    return [one for one in process.net_connections() if one.status == status]


def wait_for(is_so, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)
