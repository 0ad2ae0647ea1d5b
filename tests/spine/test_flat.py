"""Nothing grows: descriptors and memory of supervisor and runtime over many swaps and inferences.

make soak                     1,000 swaps and 1,000,000 inferences
FLAT_SWAPS=100 FLAT_INFERENCES=10000 pytest -s tests/spine/test_flat.py
"""

import os
import re
import socket
import statistics
import threading
from pathlib import Path

import pytest

from tests.spine.claims import check_answers, check_end
from tests.spine.client import PATH, body_of
from tests.spine.processes import until

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(4 * 3600)]

SWAPS = int(os.environ.get("FLAT_SWAPS", "20"))
INFERENCES = int(os.environ.get("FLAT_INFERENCES", "20000"))
CONNECTIONS = 4
MAX_DRIFT = 0.02 if SWAPS >= 1000 else 0.10
"""A page more or less is a percent of little; only many swaps tell a leak from an allocator."""
MAX_RUNTIME_DRIFT = 0.02 if INFERENCES >= 1_000_000 else 0.10
DEVICE = "cam-0"
VERSIONS = ("1.0.0", "2.0.0")


def rss(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1])


def descriptors(pid):
    """Return what a process has open, by kind."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(re.sub(r"\d+", "N", str(path.readlink())))
        except FileNotFoundError:
            continue
    return sorted(found)


class Flat:
    """The descriptors of a process as they were, which every later look has to find again."""

    def __init__(self, pid):
        self.open = descriptors(pid)

    def check(self, pid):
        until(
            lambda: f"these are open: {self.open}; there are: {descriptors(pid)}",
            lambda: descriptors(pid) == self.open,
        )


def drift(samples):
    """Return by what share the last tenth of the samples is above the first after a warm-up."""
    tenth = max(1, len(samples) // 10)
    first, last = samples[tenth : 2 * tenth] or samples[:1], samples[-tenth:]
    return statistics.median(last) / statistics.median(first) - 1


class Asker(threading.Thread):
    """Asks over one connection until so many requests were answered well."""

    def __init__(self, port, count):
        super().__init__(daemon=True)
        self._count = count
        self._port = port
        self.answered = 0
        self.fault = None

    def run(self):
        body = body_of(1.0)
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        request = head.encode() + body
        with socket.create_connection(("127.0.0.1", self._port), timeout=240) as connection:
            while self.answered < self._count:
                connection.sendall(request)
                answer = connection.recv(65_536)
                while not answer.endswith(b"}]}"):  # the head may come first, alone
                    more = connection.recv(65_536)
                    assert more, answer
                    answer += more
                if not answer.startswith(b"HTTP/1.1 200 "):
                    self.fault = answer
                    return
                self.answered += 1


def test_nothing_grows_over_swaps_and_inferences(make_bed):
    bed = make_bed("mosquitto")
    bed.add(DEVICE)
    device = bed.devices[DEVICE]
    for version in VERSIONS:
        bed.install(version)
    sizes, runtime_sizes = [], []
    for number in range(SWAPS):
        version = VERSIONS[number % 2]
        ended = bed.until_ended(bed.roll_out(version, min_s=0.0))
        assert ended["state"] == "finished", ended["reason"]
        bed.until_served(DEVICE, version)
        until("one runtime is left", lambda: len(device.runtimes()) == 1)
        if number == 0:
            flat = Flat(device.pid), Flat(device.runtimes()[0].pid)
        flat[0].check(device.pid)
        flat[1].check(device.runtimes()[0].pid)
        sizes.append(rss(device.pid))
        runtime_sizes.append(rss(device.runtimes()[0].pid))
    print(f"\n{SWAPS} swaps: supervisor {sizes[0]} to {sizes[-1]} kB, {drift(sizes):+.2%}")  # noqa: T201
    print(  # noqa: T201
        f"a new runtime {runtime_sizes[0]} to {runtime_sizes[-1]} kB, {drift(runtime_sizes):+.2%}; "
        f"{len(flat[0].open)} and {len(flat[1].open)} descriptors throughout"
    )
    assert drift(sizes) < MAX_DRIFT
    assert drift(runtime_sizes) < MAX_DRIFT

    runtime = device.runtimes()[0].pid
    askers = [Asker(device.port, INFERENCES // CONNECTIONS) for _ in range(CONNECTIONS)]
    served = []
    for asker in askers:
        asker.start()
    while any(asker.is_alive() for asker in askers):
        askers[0].join(timeout=0.2)
        served.append(rss(runtime))
    assert [asker.fault for asker in askers] == [None] * CONNECTIONS
    print(  # noqa: T201
        f"{sum(a.answered for a in askers)} inferences: runtime {served[0]} to {served[-1]} kB, "
        f"{drift(served):+.2%}"
    )
    assert sum(asker.answered for asker in askers) == INFERENCES // CONNECTIONS * CONNECTIONS
    assert drift(served) < MAX_RUNTIME_DRIFT
    flat[1].check(runtime)
    assert device.runtimes()[0].pid == runtime, "the same one has served all of them"
    check_answers(bed)
    check_end(bed)
