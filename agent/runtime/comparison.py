"""In the shadow's process: answers the sample, and counts how the answers compare.

A row agrees when all labels that both releases answer are equal; where neither answers any, when all
numbers are within the tolerance: |a - b| <= atol + rtol * |a|, a being the active release's (the rule of
`numpy.isclose`). What the shadow refuses or fails to answer does not agree. The sample comes from a
process that a hostile model may have taken over: whatever cannot be read counts as failed.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.control import Feed, printable
from agent.measured import ClassCount, Compared
from wire.latency import LATENCY_BINS, LATENCY_EDGES_MS
from wire.shadow import MAX_BIN_COUNT, MAX_CLASSES, MAX_WINDOW_COUNT

from . import oip
from .session import InferenceError, LoadedModel, NoLabelError
from .tap import HEADER, MAX_SAMPLE_BYTES

Array = npt.NDArray[Any]

MAX_AT_ONCE: Final = 8
"""Requests answered before the supervisor is listened to again."""
MAX_LABEL_CHARS: Final = 32


class SampleError(Exception):
    """These bytes are no request with its answer."""


class IncomparableError(Exception):
    """The two answers have nothing in common that could be compared."""


@dataclass(frozen=True, slots=True)
class Rows:
    """How the rows of one request compare: by row, whether they agree, and the active one's label."""

    agree: npt.NDArray[np.bool_]
    labels: tuple[str, ...] = ()


class Comparison:
    """Follows one feed; lives in the event loop's thread."""

    def __init__(self, model: LoadedModel, order: Feed, descriptor: int) -> None:
        self._model = model
        self._order = order
        self.socket = socket.socket(fileno=descriptor)
        self._open_window()

    def read(self) -> bool:
        """Work through some of what waits; return whether more can come."""
        for _ in range(MAX_AT_ONCE):
            try:
                frame = self.socket.recv(HEADER.size + MAX_SAMPLE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except OSError:
                frame = b""
            if not frame:
                self.socket.close()
                return False
            self._take(frame)
        return True

    def close_window(self) -> Compared:
        """Return the counts of the window and begin the next one."""
        classes = tuple(
            ClassCount(label, rows, disagreed)
            for label, (rows, disagreed) in sorted(self._classes.items())
        )
        closed = Compared(
            model=self._model.manifest.name,
            start_unix_ms=self._opened_unix_ms,
            duration_s=round(time.monotonic() - self._opened_at_s, 3),
            row_count=self._row_count,
            agree_count=self._agree_count,
            refused_count=self._refused_count,
            failed_count=self._failed_count,
            classes=classes,
            active_latency=tuple(self._active_latency),
            shadow_latency=tuple(self._shadow_latency),
        )
        self._open_window()
        return closed

    def _open_window(self) -> None:
        self._opened_unix_ms = time.time_ns() // 1_000_000
        self._opened_at_s = time.monotonic()
        self._row_count = self._agree_count = 0
        self._refused_count = self._failed_count = 0
        self._classes: dict[str, tuple[int, int]] = {}
        self._active_latency = [0] * LATENCY_BINS
        self._shadow_latency = [0] * LATENCY_BINS

    def _take(self, frame: bytes) -> None:
        try:
            body, active, active_ms = parse_sample(frame)
        except SampleError:
            self._failed(1)
            return
        rows = min(_row_count(active), MAX_WINDOW_COUNT)
        if self._row_count + rows > MAX_WINDOW_COUNT:
            return
        _count(self._active_latency, active_ms)
        began_s = time.perf_counter()
        try:
            mine = self._answer(body)
        except oip.RequestError:
            mine = None
        except (InferenceError, NoLabelError):
            self._failed(rows)
            return
        if mine is None:
            self._row_count += rows
            self._refused_count += rows
            return
        _count(self._shadow_latency, (time.perf_counter() - began_s) * 1000)
        try:
            compared = compare(active, mine, rtol=self._order.rtol, atol=self._order.atol)
        except IncomparableError:
            self._failed(rows)
            return
        self._row_count += len(compared.agree)
        self._agree_count += int(compared.agree.sum())
        for label, is_same in zip(compared.labels, compared.agree, strict=False):
            self._count_class(label, is_same=bool(is_same))

    def _answer(self, body: bytes) -> dict[str, Array] | None:
        """Return the outputs by name, None where the schema refuses the request.

        Raises:
            RequestError: The contract refuses it.
            InferenceError: The model failed.
            NoLabelError: Its label rests on NaN.
        """
        request = oip.parse_request(self._model.manifest, body)
        if self._model.checks.refuse(request.feeds) is not None:
            return None
        answers = self._model.answer(request.feeds, [spec.name for spec in request.outputs])
        is_finite = oip.are_finite(answers)
        # Encoded as an answer would be, so that both latencies are of the same work.
        oip.encode_answer(self._model.manifest, request, answers, is_finite=is_finite)
        return {spec.name: answer for spec, answer in zip(request.outputs, answers, strict=True)}

    def _failed(self, rows: int) -> None:
        self._row_count += rows
        self._failed_count += rows

    def _count_class(self, label: str, *, is_same: bool) -> None:
        text = printable(label)[:MAX_LABEL_CHARS]
        if text not in self._classes and len(self._classes) >= MAX_CLASSES:
            text = ""
        rows, disagreed = self._classes.get(text, (0, 0))
        self._classes[text] = rows + 1, disagreed + (not is_same)


def compare(
    active: Mapping[str, Array], shadow: Mapping[str, Array], *, rtol: float, atol: float
) -> Rows:
    """Return how the rows of two answers to one request compare.

    Args:
        active: Outputs by name, as they were answered; shape (n, …), labels as text.
        shadow: The same of the shadow, as the session gave them.
        rtol: See the module.
        atol: See the module.

    Raises:
        IncomparableError: No output is in both, one has another shape in each, or not all have as many
            rows.
    """
    names = [name for name in active if name in shadow]
    labels = [name for name in names if _is_label(active[name]) and _is_label(shadow[name])]
    numbers = [name for name in names if not (_is_label(active[name]) or _is_label(shadow[name]))]
    chosen = labels or numbers
    if not chosen or any(active[name].shape != shadow[name].shape for name in chosen):
        raise IncomparableError
    same = []
    for name in chosen:
        first, second = active[name], shadow[name]
        if labels:
            equal = first.astype(str) == second.astype(str)
        else:
            wide = first.astype(np.float64)
            equal = np.isclose(second.astype(np.float64), wide, rtol, atol, equal_nan=True)
        same.append(equal.reshape(len(first), -1).all(axis=1) if first.ndim else equal.reshape(1))
    if len({len(rows) for rows in same}) != 1:
        raise IncomparableError
    agree = np.logical_and.reduce(same)
    words: tuple[str, ...] = ()
    if labels and active[labels[0]].size == len(agree):
        words = tuple(str(value) for value in active[labels[0]].reshape(-1))
    return Rows(agree, words)


def _is_label(array: Array) -> bool:
    return array.dtype.kind != "f"


def _row_count(outputs: Mapping[str, Array]) -> int:
    first = next(iter(outputs.values()))
    return len(first) if first.ndim else 1


def parse_sample(frame: bytes) -> tuple[bytes, dict[str, Array], float]:
    """Return the body of a request, the outputs that it was answered, and its latency in ms.

    Raises:
        SampleError: It is none.
    """
    try:
        body_bytes, answer_bytes, latency_ms = HEADER.unpack_from(frame)
        if len(frame) != HEADER.size + body_bytes + answer_bytes:
            raise SampleError("it is cut")
        body = frame[HEADER.size : HEADER.size + body_bytes]
        outputs = json.loads(frame[HEADER.size + body_bytes :])["outputs"]
        arrays = {
            str(output["name"]): _array(output["datatype"], output["shape"], output["data"])
            for output in outputs
        }
    except (struct.error, ValueError, TypeError, KeyError, RecursionError, OverflowError) as exc:
        raise SampleError(str(exc)) from exc
    if not arrays:
        raise SampleError("it has no output")
    return body, arrays, float(latency_ms)


def _array(datatype: str, shape: Sequence[int], data: Sequence[Any]) -> Array:
    kind = oip.DTYPES[datatype]
    return np.array(data, dtype=kind).reshape(shape)


def _count(counts: list[int], latency_ms: float) -> None:
    place = bisect_right(LATENCY_EDGES_MS, latency_ms)
    counts[place] = min(MAX_BIN_COUNT, counts[place] + 1)
