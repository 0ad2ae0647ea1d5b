"""The link: what the programs ask of a message broker, and the events it answers with.

The contract, kept by `link_memory` and `link_paho` and tested by one suite on both and on real
brokers:

- Sessions are clean. What is published but not yet `Published` when the link drops is void, and
  subscriptions are gone: on each `Connected` the owner subscribes and publishes again. Everything
  in the protocol is either retained state or a record that waits for its own acknowledgement, so
  nothing is lost by that, and nothing stale is redelivered.
- Events arrive one at a time, in order, from a thread of the link. The sink only hands over: it
  must not block and must not raise.
- Publishing never blocks. It returns a token, or None when the link is down or full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .topics import Qos


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when this client vanishes; QoS 1, retained."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted the connection; no subscription survived."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone, or could not be made; the link tries again by itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message for one of the subscriptions."""

    topic: str
    payload: bytes
    retained: bool


@dataclass(frozen=True, slots=True)
class Published:
    """The broker has the message of this token (QoS 1), or it was written out (QoS 0)."""

    token: int


LinkEvent = Connected | Disconnected | Delivered | Published
Sink = Callable[[LinkEvent], None]
WillFactory = Callable[[], Will | None]
"""Called before each connection attempt, so that the will can carry a new birth number."""


class Link(Protocol):
    """A connection to a broker that keeps itself alive."""

    def start(self, sink: Sink, will: WillFactory) -> None:
        """Begin to connect; events go to `sink` from now on. Called once."""

    def publish(self, topic: str, payload: bytes, *, qos: Qos, retain: bool) -> int | None:
        """Hand a message over; return its token, or None if the link is down or full."""

    def subscribe(self, filters: Sequence[str], *, qos: Qos) -> None:
        """Ask for messages; any number of filters, sent at most 8 at a time."""

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """End subscriptions."""

    def is_alive(self) -> bool:
        """Return False when the link can no longer recover by itself; its owner must end."""

    def stop(self) -> None:
        """Disconnect in good order (no will is sent) and end all threads. Idempotent."""
