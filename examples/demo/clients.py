"""Applications on the devices: HTTP clients that ask each agent about real digits, without retry."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PATH = "/v2/models/digits/infer"
PACE_S = 0.02
"""Between two requests of one client: about 45 requests a second each, far below what one core can."""
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Question:
    """One row of pixels as a request, with the label that it has in the data."""

    body: bytes
    label: int
    has_16: bool


def questions_of(data: Path, *, dirty: Sequence[int] = ()) -> list[Question]:
    """Return every row of the data as a request, the pixels `dirty` at half their brightness.

    About half of the rows have the pixel value 16. Asked in random order, those with and without it
    alternate quickly, and answers of a model that fails on 16 show its version between the failures.
    """
    with np.load(data, allow_pickle=False) as arrays:
        rows, labels = arrays["X"], arrays["y"]
    rows[:, list(dirty)] = np.floor(rows[:, list(dirty)] / 2)
    return [question_of(pixels, label) for pixels, label in zip(rows, labels, strict=True)]


def question_of(
    pixels: npt.NDArray[np.float32], label: int, *, name: str | None = None
) -> Question:
    """Return one row of pixels, shape (64,), as a request; only one with a name can be labelled."""
    tensor = {
        "name": "X",
        "shape": [1, len(pixels)],
        "datatype": "FP32",
        "data": pixels.tolist(),
    }
    request = {"inputs": [tensor], **({"id": name} if name is not None else {})}
    return Question(json.dumps(request).encode(), int(label), bool(pixels.max() > 15))


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket file instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def connection_to(address: str) -> http.client.HTTPConnection:
    """Return an unopened connection to `host:port` or to the path of a unix socket."""
    if address.startswith("/"):
        return UnixConnection(address)
    host, _, port = address.rpartition(":")
    return http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)


def get(address: str, path: str, *, token: str = "") -> tuple[int, Any]:
    """Return status and JSON body of a GET, with a token of the API where it takes one.

    The status is 0 when there was no answer.
    """
    connection = connection_to(address)
    try:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.strip() else None
    except (OSError, http.client.HTTPException, ValueError):
        return 0, None
    finally:
        connection.close()


def post(address: str, path: str, content: Any) -> tuple[int, Any]:
    """Return status and JSON body of a POST of JSON; the status is 0 when there was no answer."""
    connection = connection_to(address)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(content).encode(), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError):
        return 0, None
    finally:
        connection.close()


class Client(threading.Thread):
    """Asks one agent all the time over one keep-alive connection, and keeps what was answered.

    Each question is drawn at random, so that what a device is asked in a few seconds is distributed
    as all of them are: in a fixed order a part of them would be a drift, and rightly be found.

    The record is run-length coded: a segment is a run of answers with the same version and status.
    Failures carry no version; status 0 is a broken or refused connection.
    """

    def __init__(
        self, device: str, address: str, questions: Sequence[Question], now_s: Callable[[], float]
    ) -> None:
        kind = "unix" if address.startswith("/") else "tcp"
        super().__init__(name=f"{device}/{kind}", daemon=True)
        self.device = device
        self._address = address
        self._questions = questions
        self._random = np.random.default_rng(list(self.name.encode()))
        self._now_s = now_s
        self._ended = threading.Event()
        self.segments: list[dict[str, Any]] = []

    def run(self) -> None:
        """Wait until the model is there, then ask until `stop`."""
        while get(self._address, "/v2/models/digits/ready")[0] != http.client.OK:
            if self._ended.wait(PACE_S * 5):
                return
        connection = connection_to(self._address)
        while not self._ended.wait(PACE_S):
            question = self._questions[self._random.integers(len(self._questions))]
            status, version, label = ask(connection, question.body)
            self._note(question, status, version, label)
            if status == 0:
                connection.close()
                connection = connection_to(self._address)
        connection.close()

    def ask_from(self, questions: Sequence[Question]) -> None:
        """Draw from `questions` from the next request on."""
        self._questions = questions

    def stop(self) -> None:
        """End after the request under way."""
        self._ended.set()
        self.join()

    def answers(self, version: str) -> int:
        """Return how many answers of `version` there were so far."""
        return sum(s["count"] for s in list(self.segments) if s["version"] == version)

    def _note(self, asked: Question, status: int, version: str | None, label: int | None) -> None:
        now_s = self._now_s()
        last = self.segments[-1] if self.segments else None
        if last is None or (last["version"], last["status"]) != (version, status):
            last = {"version": version, "status": status, "count": 0, "with_16": 0, "right": 0}
            self.segments.append({**last, "first_s": now_s, "last_s": now_s})
            last = self.segments[-1]
        last["count"] += 1
        last["with_16"] += asked.has_16
        last["right"] += label == asked.label
        last["last_s"] = now_s


def ask(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, str | None, int | None]:
    """Send one inference request; return status, the version that answered, and the label."""
    try:
        connection.request("POST", PATH, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException):
        return 0, None, None
    if answer.status != http.client.OK:
        return answer.status, None, None
    try:
        parsed = json.loads(text)
        label = next(
            int(output["data"][0])
            for output in parsed["outputs"]
            if output["datatype"] == "INT64" and output["shape"][0] == 1
        )
        return answer.status, str(parsed["model_version"]), label
    except (ValueError, LookupError, TypeError, StopIteration):
        return answer.status, None, None
