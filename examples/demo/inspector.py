"""Who knows the right answers: pictures that no model learns from, asked for, and their labels sent back."""

from __future__ import annotations

import http.client
import io
import tarfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from clients import Question, ask, connection_to, post, question_of
from processes import DemoError

PACE_S = 0.05
BIN_S = 4.0
"""Of the curve: some 70 answers are one point of it."""
FEEDBACK = "/v2/models/digits/feedback"


@dataclass(frozen=True, slots=True)
class World:
    """Pictures as cameras see them at a time.

    Attributes:
        traffic: What applications ask: all pictures.
        unseen: Rows of those that are kept for measuring, shape (n_pictures, 64); each picture once.
        labels: What is on them, shape (n_pictures,).
    """

    traffic: tuple[Question, ...]
    unseen: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def read_worlds(path: Path) -> tuple[World, World, list[int]]:
    """Return the world before and after the mounts came loose, and the numbers of the unseen pictures.

    Afterwards every second picture is that of a loose mount: of what applications ask, and of the
    unseen ones.
    """
    with np.load(path, allow_pickle=False) as arrays:
        firm, loose, labels = arrays["firm"], arrays["loose"], arrays["label"]
        unseen = np.flatnonzero(arrays["is_unseen"])
    questions = tuple(question_of(row, label) for row, label in zip(firm, labels, strict=True))
    sunk = tuple(question_of(row, label) for row, label in zip(loose, labels, strict=True))
    mixed = firm[unseen].copy()
    mixed[1::2] = loose[unseen][1::2]
    before = World(questions, firm[unseen], labels[unseen])
    after = World(questions + sunk, mixed, labels[unseen])
    return before, after, [int(number) for number in unseen]


class Inspector(threading.Thread):
    """Asks all devices in turn about unseen pictures, and keeps how many answers were right.

    Attributes:
        series: What came of it in each span of `BIN_S`, one entry for each version that answered.
    """

    def __init__(self, addresses: Sequence[str], world: World, now_s: Callable[[], float]) -> None:
        super().__init__(name="inspector", daemon=True)
        self._addresses = tuple(addresses)
        self._world = world
        self._now_s = now_s
        self._ended = threading.Event()
        self.series: list[dict[str, Any]] = []

    def run(self) -> None:
        """Ask until `stop`."""
        connections = [connection_to(address) for address in self._addresses]
        random = np.random.default_rng(0)
        turn = 0
        while not self._ended.wait(PACE_S):
            connection = connections[turn % len(connections)]
            turn += 1
            world = self._world
            picture = int(random.integers(len(world.labels)))
            question = question_of(world.unseen[picture], world.labels[picture])
            status, version, label = ask(connection, question.body)
            if status == http.client.OK and version is not None:
                self._note(version, is_right=label == question.label)
            else:
                connection.close()
        for connection in connections:
            connection.close()

    def look_at(self, world: World) -> None:
        """Ask as cameras see it then, from the next picture on."""
        self._world = world

    def stop(self) -> None:
        """End after the request under way."""
        self._ended.set()
        self.join()

    def measure(self, name: str) -> dict[str, Any]:
        """Ask for each unseen picture once, then tell the devices what was right.

        Returns:
            `asked_count`, `right_count`, `versions` that answered and `accepted_count`.

        Raises:
            DemoError: A device did not answer, or took no label.
        """
        world, right, versions, accepted = self._world, 0, set(), 0
        for place, address in enumerate(self._addresses):
            connection, labels = connection_to(address), []
            for picture in range(place, len(world.labels), len(self._addresses)):
                asked = f"{name}-{picture}"
                question = question_of(world.unseen[picture], world.labels[picture], name=asked)
                status, version, label = ask(connection, question.body)
                if status != http.client.OK:
                    raise DemoError(f"{address} answered {asked} with {status}")
                versions.add(version)
                right += label == question.label
                labels.append({"id": asked, "label": question.label})
            connection.close()
            status, body = post(address, FEEDBACK, {"labels": labels})
            if status != http.client.OK:
                raise DemoError(f"{address} took no labels, {status}: {body}")
            accepted += body["accepted_count"]
        return {
            "asked_count": len(world.labels),
            "right_count": right,
            "accepted_count": accepted,
            "versions": sorted(str(version) for version in versions),
        }

    def _note(self, version: str, *, is_right: bool) -> None:
        at_s = self._now_s() // BIN_S * BIN_S
        last = self.series[-1] if self.series else None
        if last is None or (last["at_s"], last["version"]) != (at_s, version):
            last = {"at_s": at_s, "version": version, "count": 0, "right": 0}
            self.series.append(last)
        last["count"] += 1
        last["right"] += is_right


def right_count(bundle: Path, world: World) -> int:
    """Return how many unseen pictures the model in a bundle reads right, without any fleet."""
    import onnxruntime

    with tarfile.open(bundle) as tar:
        member = next(one for one in tar.getmembers() if one.name.endswith("model.onnx"))
        model = io.BytesIO(tar.extractfile(member).read())  # type: ignore[union-attr]  # a file
    session = onnxruntime.InferenceSession(model.getvalue(), providers=["CPUExecutionProvider"])
    answers = session.run(None, {session.get_inputs()[0].name: world.unseen})
    (labels,) = [answer for answer in answers if np.asarray(answer).dtype == np.int64]
    return int((np.asarray(labels).reshape(-1) == world.labels).sum())
