"""The inference server: one raw ASGI application over the models of this incarnation.

Small models run on the event loop; those measured slow run in a few threads. What a request did
is counted after its answer is sent, so that counting costs the client nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from agent.control import GiveLabels
from agent.core.ring import Ring
from wire.manifest import Manifest

from . import feedback, oip
from .capture import RowCapture
from .checks import Refusal
from .counters import ModelCounters
from .exposition import CONTENT_TYPE, Served, render
from .labels import Given
from .memory import rss_bytes
from .session import Array, InferenceError, LoadedModel, NoLabelError, runtime_name
from .tap import RequestTap

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

SLOW_THREADS: Final = 2
MAX_WAITING: Final = 32
"""Requests for slow models under way or waiting; beyond, 503 tells the client to come back."""

JSON: Final = b"application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back, and how it counts: for which model, how many rows, which cause of error.

    `request` and `answers` are there where rows were answered.
    """

    status: int
    body: bytes
    model: str | None = None
    cause: str | None = None
    request: oip.Request | None = None
    answers: Sequence[Array] = ()
    refusal: Refusal | None = None
    content_type: bytes = JSON


class InferenceServer:
    """The ASGI application; lives in the event loop's thread."""

    def __init__(
        self,
        models: Mapping[str, LoadedModel],
        deadline_s: float,
        ring: Ring | None = None,
        capture: RowCapture | None = None,
    ) -> None:
        self._models = models
        self._capture = capture
        self._deadline_s = deadline_s
        ring = ring or Ring()
        share = Ring(ring.max_rows, ring.max_bytes // max(1, len(models)))
        self._counters = {
            name: ModelCounters(model.model, model.manifest, model.baseline, model.checks, share)
            for name, model in models.items()
        }
        self._pool = ThreadPoolExecutor(SLOW_THREADS, thread_name_prefix="inference")
        self._running: dict[int, float] = {}
        self._waiting_count = 0
        self._number = 0
        self.tap: RequestTap | None = None

    @property
    def counters(self) -> Mapping[str, ModelCounters]:
        """The counts of each model."""
        return self._counters

    def take_labels(self, given: GiveLabels) -> None:
        """Count labels that came from afar, for one of the models."""
        counters = self._counters.get(given.model)
        if counters is None:
            return
        for label in given.labels:
            counters.labelling.take_text(Given(label.id, label.label, label.row, label.version))

    def oldest_request_s(self) -> float:
        """Return how long the oldest inference has run, 0 without any."""
        now_s = time.monotonic()
        return max(0.0, now_s - min(list(self._running.values()), default=now_s))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            return
        body = await _read_body(receive) if scope["method"] == "POST" else b""
        began_s = time.perf_counter()
        reply = (
            await self._answer(scope, body)
            if body is not None
            else Reply(413, oip.encode_error(f"the body is over {oip.MAX_BODY_BYTES} bytes"))
        )
        await _send_reply(send, reply)
        if reply.model is None:
            return
        counters, request = self._counters[reply.model], reply.request
        latency_ms = (time.perf_counter() - began_s) * 1000
        counters.count(
            rows=request.n_rows if request else 0, cause=reply.cause, latency_ms=latency_ms
        )
        if self.tap is not None and request is not None and self.tap.model == reply.model:
            self.tap.offer(body or b"", reply.body, latency_ms)
        if reply.refusal is not None:
            counters.columns.refused(reply.refusal.reason)
        if request is not None:
            counters.columns.add(request.n_rows, request.feeds, request.outputs, reply.answers)
            if self._capture is not None:
                self._capture.take(reply.model, request, reply.answers)

    async def _answer(self, scope: Scope, body: bytes) -> Reply:
        method, parts = scope["method"], oip.split_path(scope["path"])
        match parts:
            case ["v2", "models", name, "infer"]:
                if method != "POST":
                    return _wrong_method(method)
                model = self._models.get(name)
                return await self._infer(model, scope, body) if model else _no_model(name)
            case ["v2", "models", name, "feedback"]:
                if method != "POST":
                    return _wrong_method(method)
                return self._feedback(name, body) if name in self._models else _no_model(name)
            case ["v2", *_] if method not in ("GET", "HEAD"):
                return _wrong_method(method)
            case ["metrics"]:
                return self._metrics() if method in ("GET", "HEAD") else _wrong_method(method)
            case ["v2"]:
                return _ok({"name": "modelfleet", "version": runtime_name(), "extensions": []})
            case ["v2", "health", "live"]:
                return _ok({"live": True})
            case ["v2", "health", "ready"]:
                is_ready = bool(self._models)
                # The specification's text writes the key `live` here: send both.
                state = oip.encode_json({"ready": is_ready, "live": True})
                return Reply(200 if is_ready else 503, state)
            case ["v2", "models", name]:
                model = self._models.get(name)
                return _ok(oip.model_metadata(model.manifest)) if model else _no_model(name)
            case ["v2", "models", name, "ready"]:
                is_known = name in self._models
                return _ok({"name": name, "ready": True}) if is_known else _no_model(name)
            case _:
                return Reply(404, oip.encode_error(f"there is no {scope['path'][:200]}"))

    def _feedback(self, name: str, body: bytes) -> Reply:
        try:
            given = feedback.parse_feedback(body)
        except oip.RequestError as exc:
            return Reply(exc.status, oip.encode_error(str(exc)))
        return Reply(*feedback.take_all(name, self._counters[name].labelling, given))

    def _metrics(self) -> Reply:
        served = {
            name: Served(self._models[name].manifest.version, counters.so_far())
            for name, counters in self._counters.items()
        }
        text = render(served, runtime=runtime_name(), rss_bytes=rss_bytes())
        return Reply(200, text, content_type=CONTENT_TYPE)

    async def _infer(self, model: LoadedModel, scope: Scope, body: bytes) -> Reply:
        name = model.manifest.name
        if any(key == oip.BINARY_HEADER for key, _ in scope["headers"]):
            text = "binary tensor data is not supported; send JSON"
            return Reply(400, oip.encode_error(text), name, cause="client")
        try:
            request = oip.parse_request(model.manifest, body)
        except oip.RequestError as exc:
            return Reply(exc.status, oip.encode_error(str(exc)), name, cause="client")
        if (refusal := model.checks.refuse(request.feeds)) is not None:
            error = oip.encode_error(refusal.sentence)
            return Reply(400, error, name, cause="client", refusal=refusal)
        is_aside = model.is_slow_for(request.n_rows)
        if is_aside and self._waiting_count >= MAX_WAITING:
            return Reply(503, oip.encode_error("too many requests are waiting; try again"))
        try:
            answers = await self._run(model, request, is_aside=is_aside)
            # Before the answer goes out: the label may be back before this task is.
            self._counters[name].labelling.remember(request.id, request.outputs, answers)
            return _answered(model.manifest, request, answers)
        except InferenceError as exc:
            return Reply(500, oip.encode_error(f"inference failed: {exc}"), name, cause="runtime")
        except NoLabelError as exc:
            return _unlabelled(name, request, str(exc))
        except TimeoutError:
            text = f"no answer within {self._deadline_s:g} s"
            return Reply(504, oip.encode_error(text), name, cause="deadline")
        except Exception as exc:  # noqa: BLE001 - whatever it is, the guards must know of it
            # Such as a MemoryError over an answer that is too large to write.
            log.warning("%s: no answer: %r", name, exc)
            text = f"no answer: {type(exc).__name__}"
            return Reply(500, oip.encode_error(text), name, cause="runtime")

    async def _run(
        self, model: LoadedModel, request: oip.Request, *, is_aside: bool
    ) -> list[Array]:
        """Run on the loop, or in a thread when that takes long.

        A thread cannot be ended: past the deadline the client gets its answer, the inference stays
        on the books, and the supervisor ends the whole process if it never returns.
        """
        outputs = [spec.name for spec in request.outputs]
        self._number += 1
        if not is_aside:
            return self._infer_now(self._number, model, request.feeds, outputs)
        self._waiting_count += 1
        task = asyncio.get_running_loop().run_in_executor(
            self._pool, self._infer_now, self._number, model, request.feeds, outputs
        )
        task.add_done_callback(self._finished)
        return await asyncio.wait_for(asyncio.shield(task), self._deadline_s)

    def _infer_now(
        self, number: int, model: LoadedModel, feeds: Mapping[str, Array], outputs: list[str]
    ) -> list[Array]:
        """Run, on the books from here on: one that waits for a thread does not hang."""
        self._running[number] = time.monotonic()
        try:
            return model.answer(feeds, outputs)
        finally:
            del self._running[number]

    def _finished(self, done: asyncio.Future[list[Array]]) -> None:
        self._waiting_count -= 1
        if not done.cancelled():
            done.exception()  # taken here, since after a deadline nobody else does


def _answered(manifest: Manifest, request: oip.Request, answers: list[Array]) -> Reply:
    is_finite = oip.are_finite(answers)
    is_fault = not is_finite and oip.are_finite(list(request.feeds.values()))
    return Reply(
        200,
        oip.encode_answer(manifest, request, answers, is_finite=is_finite),
        manifest.name,
        cause="non_finite" if is_fault else None,
        request=request,
        answers=answers,
    )


def _unlabelled(name: str, request: oip.Request, words: str) -> Reply:
    """Return the refusal of a label that rests on NaN: the model's fault, or that of NaN it was fed."""
    if oip.are_finite(list(request.feeds.values())):
        return Reply(500, oip.encode_error(f"no label: {words}"), name, cause="non_finite")
    error = oip.encode_error(f"no label for inputs that are not finite: {words}")
    return Reply(400, error, name, cause="client")


def _ok(body: Mapping[str, Any]) -> Reply:
    return Reply(200, oip.encode_json(body))


def _no_model(name: str) -> Reply:
    return Reply(404, oip.encode_error(f"there is no model {name[:64]!r} on this device"))


def _wrong_method(method: str) -> Reply:
    return Reply(405, oip.encode_error(f"{method[:16]} is not possible here"))


async def _read_body(receive: Receive) -> bytes | None:
    """Return the whole body, or None when it is over the cap."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body if len(body) <= oip.MAX_BODY_BYTES else None
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        part = message.get("body", b"")
        size += len(part)
        if size <= oip.MAX_BODY_BYTES:
            parts.append(part)
    return b"".join(parts) if size <= oip.MAX_BODY_BYTES else None


async def _send_reply(send: Send, reply: Reply) -> None:
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", str(len(reply.body)).encode()),
    ]
    if reply.status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
