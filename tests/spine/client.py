"""Applications on a device: one question, or questions all the time, never asked twice."""

import http.client
import json
import threading
import time
from dataclasses import dataclass

from tests.spine.models import NAME

PATH = f"/v2/models/{NAME}/infer"
PACE_S = 0.05
TIMEOUT_S = 20


@dataclass(frozen=True)
class Answer:
    """What came of one request; status 0 is a connection that broke. `sent_s` is monotonic."""

    sent_s: float
    got_s: float
    status: int
    version: str | None = None
    value: float | None = None


def body_of(feature):
    """Return a request with one row that begins with `feature`."""
    row = [feature, 1.0, 2.0, 3.0]
    tensor = {"name": "X", "shape": [1, len(row)], "datatype": "FP32", "data": row}
    return json.dumps({"inputs": [tensor]}).encode()


def connect(port):
    return http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)


def ask(connection, feature):
    """Send one request over a connection that may stay open; return what came of it."""
    sent_s = time.monotonic()
    try:
        connection.request("POST", PATH, body_of(feature), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return Answer(sent_s, time.monotonic(), 0)
    if answer.status != http.client.OK:
        return Answer(sent_s, time.monotonic(), answer.status)
    said = json.loads(text)
    value = said["outputs"][0]["data"][0]
    return Answer(sent_s, time.monotonic(), answer.status, said["model_version"], value)


def ask_once(port, feature=1.0):
    connection = connect(port)
    try:
        return ask(connection, feature)
    finally:
        connection.close()


class Client(threading.Thread):
    """Asks one device all the time over one connection, without retry, and remembers the answers.

    Attributes:
        feature: What its rows begin with; may be changed while it runs.
        answers: All of them, in order.
    """

    def __init__(self, device, port):
        super().__init__(name=f"client-{device}", daemon=True)
        self._port = port
        self._ended = threading.Event()
        self.feature = 1.0
        self.answers = []

    def run(self):
        connection = connect(self._port)
        while not self._ended.wait(PACE_S):
            self.answers.append(ask(connection, self.feature))
        connection.close()

    def stop(self):
        self._ended.set()
        if self.is_alive():
            self.join()

    def versions(self):
        """Return the versions that answered, each change once, in order."""
        found = []
        for answer in list(self.answers):
            if answer.version is not None and answer.version != (found[-1] if found else None):
                found.append(answer.version)
        return found

    def failures(self, since_s=0.0):
        """Return what was sent after an instant and not answered with 200."""
        return [a for a in list(self.answers) if a.sent_s >= since_s and a.status != 200]

    def first(self, version):
        """Return when a version answered first, or None."""
        return next((a.got_s for a in list(self.answers) if a.version == version), None)
