"""Brings alerts to webhooks: a thread of its own, in which each receiver has its own line.

A receiver that is dead, slow or hostile holds up nobody but itself. What the store has for one is
sent in order, again and again, ever more seldom, until the receiver takes it, refuses it for good,
or it is a day old. A controller that is killed between the answer and the noting of it sends once
more: a receiver tells the two by `Idempotency-Key`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import httpx

from fleet.store.deliveries import Delivery
from fleet.store.store import Store
from fleet.version import VERSION
from wire.errors import ConfigError, StorageError

from .settings import Receiver
from .watch import MAX_AGE_MS

log = logging.getLogger(__name__)
# It logs each URL whole, and those of webhooks hold secrets.
logging.getLogger("httpx").setLevel(logging.WARNING)

TIMEOUT_S: Final = 10.0
"""For a whole exchange, from the connection to the last byte."""
MAX_ANSWER_BYTES: Final = 4_096
MAX_TOKEN_CHARS: Final = 4_096
RETRY_FIRST_S: Final = 2.0
RETRY_CAP_S: Final = 300.0
IDLE_S: Final = 30.0
"""A line looks by itself this often, in case that it was not woken."""
JOIN_S: Final = TIMEOUT_S + 5.0
FINAL: Final = frozenset({400, 413, 414, 415, 422})
"""Answers by which a receiver says that it will never take this message. Others, such as 401 or 404,
a person may mend."""
_CHANCE: Final = secrets.SystemRandom()


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one attempt.

    Attributes:
        is_taken: Whether the receiver has it.
        is_final: Whether to try again is of no use.
        text: What it answered, or why it could not be asked; one line, at most 200 characters.
    """

    is_taken: bool
    is_final: bool
    text: str


def backoff_s(attempts: int, chance: float, first_s: float = RETRY_FIRST_S) -> float:
    """Return the wait after a number of failed attempts, in seconds.

    Full jitter, as in M. Brooker, "Exponential Backoff And Jitter" (AWS, 2015): anything up to the
    doubled limit.

    Args:
        attempts: At least 1.
        chance: In [0, 1).
        first_s: Half the longest first wait.
    """
    return chance * min(RETRY_CAP_S, first_s * 2.0 ** min(attempts, 30))


async def post(receiver: Receiver, body: str, key: str, *, timeout_s: float = TIMEOUT_S) -> Answer:
    """Send a message once, and return what the receiver said."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _exchange(receiver, body, key)
    except TimeoutError:
        return Answer(False, False, f"no whole answer within {timeout_s:g} s")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ConfigError) as exc:
        return Answer(False, False, _line(str(exc) or type(exc).__name__))


async def _exchange(receiver: Receiver, body: str, key: str) -> Answer:
    headers = {
        "content-type": "application/json",
        "user-agent": f"modelfleet/{VERSION}",
        "idempotency-key": f'"{key}"',
    }
    if receiver.token_path is not None:
        headers["authorization"] = f"Bearer {_token(receiver)}"
    async with (
        # Redirects are not followed: the token is for this address. No proxy of the environment.
        httpx.AsyncClient(verify=_trusted(receiver), trust_env=False, timeout=TIMEOUT_S) as client,
        client.stream("POST", receiver.url, content=body.encode(), headers=headers) as answer,
    ):
        said = b""
        async for part in answer.aiter_raw(1024):
            said += part
            if len(said) >= MAX_ANSWER_BYTES:
                break
        text = f"{answer.status_code} {answer.reason_phrase} {said.decode(errors='replace')}"
        return Answer(answer.is_success, answer.status_code in FINAL, _line(text))


def _token(receiver: Receiver) -> str:
    assert receiver.token_path is not None  # noqa: S101 - the caller asked
    try:
        token = receiver.token_path.read_text()[:MAX_TOKEN_CHARS].strip()
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"cannot read the token {receiver.token_path}: {exc}", code="token_unreadable"
        ) from exc
    if not token.isascii() or not token.isprintable():
        raise ConfigError(f"{receiver.token_path} holds no token", code="token_unreadable")
    return token


def _trusted(receiver: Receiver) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=receiver.ca_path)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot use {receiver.ca_path}: {exc}", code="ca_unreadable") from exc


def _line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]


def post_all(receivers: Iterable[Receiver], bodies: dict[str, str], key: str) -> dict[str, Answer]:
    """Send each receiver its message once, all at the same time; return the answers by name."""

    async def all_of_them() -> dict[str, Answer]:
        chosen = [receiver for receiver in receivers if receiver.name in bodies]
        answers = await asyncio.gather(*(post(r, bodies[r.name], key) for r in chosen))
        return {receiver.name: answer for receiver, answer in zip(chosen, answers, strict=True)}

    return asyncio.run(all_of_them())


class Courier:
    """See the module."""

    def __init__(
        self,
        store: Store,
        receivers: Iterable[Receiver],
        clock: Callable[[], int],
        *,
        timeout_s: float = TIMEOUT_S,
        retry_first_s: float = RETRY_FIRST_S,
    ) -> None:
        """Prepare, start nothing.

        Args:
            store: Holds what is to be delivered.
            receivers: To whom.
            clock: Milliseconds of the Unix epoch.
            timeout_s: For a whole exchange.
            retry_first_s: Half the longest wait after the first failure.
        """
        self._store = store
        self._receivers = tuple(receivers)
        self._clock = clock
        self._timeout_s = timeout_s
        self._retry_first_s = retry_first_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bells: dict[str, asyncio.Event] = {}
        self._ended: asyncio.Event | None = None
        self._lock = threading.Lock()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def start(self) -> None:
        """Begin to deliver; nothing without receivers."""
        if self._receivers:
            self._thread.start()

    def wake(self) -> None:
        """Say that there is something new; from any thread."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._ring)

    def stop(self) -> None:
        """End; what is under way is cut off, and sent again after the next start. Idempotent."""
        with self._lock:
            self._is_stopped = True
            if self._loop is not None and self._ended is not None:
                self._loop.call_soon_threadsafe(self._ended.set)
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    def _ring(self) -> None:
        for bell in self._bells.values():
            bell.set()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:  # the thread's end must be told: nobody waits for it
            log.exception("alerts: the deliveries failed: no webhook is told until a restart")
        finally:
            with self._lock:
                self._loop = None

    async def _serve(self) -> None:
        ended = asyncio.Event()
        self._bells = {receiver.name: asyncio.Event() for receiver in self._receivers}
        with self._lock:
            if self._is_stopped:
                return
            self._ended, self._loop = ended, asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            lines = [group.create_task(self._line(receiver)) for receiver in self._receivers]
            await ended.wait()
            for line in lines:
                line.cancel()

    async def _line(self, receiver: Receiver) -> None:
        """Deliver to one receiver, one message after the other."""
        bell = self._bells[receiver.name]
        while True:
            bell.clear()
            try:
                wait_s = await self._deliver(receiver)
            except StorageError as exc:
                log.error("alerts: %s (%s)", exc, exc.hint)  # noqa: TRY400 - its text says it
                wait_s = self._retry_first_s
            if wait_s > 0:
                try:
                    await asyncio.wait_for(bell.wait(), wait_s)
                except TimeoutError:
                    continue

    async def _deliver(self, receiver: Receiver) -> float:
        """Make one attempt, if one is due; return after how many seconds to look again."""
        with self._store.read() as tx:
            delivery = tx.deliveries.first(receiver.name)
        if delivery is None:
            return IDLE_S
        now = self._clock()
        wait_ms = delivery.next_unix_ms - now
        if 0 < wait_ms <= RETRY_CAP_S * 1000:  # more is a clock that was set back
            return wait_ms / 1000
        key = f"{delivery.created_unix_ms}-{delivery.id}"
        answer = await post(receiver, delivery.body, key, timeout_s=self._timeout_s)
        return self._settle(receiver, delivery, answer)

    def _settle(self, receiver: Receiver, delivery: Delivery, answer: Answer) -> float:
        now = self._clock()
        is_old = now - delivery.created_unix_ms > MAX_AGE_MS
        if answer.is_taken or answer.is_final or is_old:
            with self._store.write() as tx:
                tx.deliveries.done([delivery.id])
            if not answer.is_taken:
                log.error("alerts: given up for %s: %s", receiver.name, answer.text)
            return 0.0
        wait_s = backoff_s(delivery.attempts + 1, _CHANCE.random(), self._retry_first_s)
        with self._store.write() as tx:
            tx.deliveries.postpone(delivery.id, now + int(wait_s * 1000))
        if delivery.attempts == 0:
            log.warning("alerts: %s does not take them: %s", receiver.name, answer.text)
        return wait_s
