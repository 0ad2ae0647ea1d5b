"""Labels that an application gives the controller, on their way to the device that answered.

No device may write what another one reads, and an application is no device: so labels come in by the API,
which knows who asks, and go out as the controller's own messages. They are not kept: a device that is
offline gets none, and who gave them is told so and may give them again; a label that came twice counts once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from fleet import acts, registry
from fleet.core.rights import WHOLE_FLEET, Scope
from fleet.store.devices import Selection
from fleet.store.store import Tx
from wire import codec
from wire.errors import PeerError
from wire.performance import MAX_RELAYED_LABELS, Feedback, GivenLabel

MAX_MESSAGE_BYTES: Final = codec.MAX_CONTROL_BYTES
MAX_WAITING: Final = 1_000
"""Messages that wait to be sent; beyond it nobody may give more labels."""
HEAD_BYTES: Final = 128
"""Of a message beside its labels: the model's name and the keys."""


@dataclass(frozen=True, slots=True)
class Labels:
    """One message of labels for one device."""

    device: str
    payload: bytes


class LabelQueue:
    """Messages of labels that wait to be sent; from any thread. A controller that ends loses them."""

    def __init__(self) -> None:
        self._waiting: deque[Labels] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, device: str, payloads: Sequence[bytes]) -> None:
        """Have messages sent to a device.

        Raises:
            PeerError: `too_many_labels` wait already.
        """
        if len(self._waiting) + len(payloads) > MAX_WAITING:
            raise PeerError(
                "too many labels wait to be sent",
                code="too_many_labels",
                hint="wait a second and give them again",
            )
        self._waiting.extend(Labels(device, payload) for payload in payloads)

    def take(self) -> Labels:
        """Return the next message; there must be one."""
        return self._waiting.popleft()

    def put_back(self, labels: Labels) -> None:
        """Let a message that could not be sent be the next one."""
        self._waiting.appendleft(labels)


def relay(
    tx: Tx, device: str, model: str, labels: Iterable[GivenLabel], *, scope: Scope = WHOLE_FLEET
) -> list[bytes]:
    """Return the messages that bring labels to a device.

    Raises:
        PeerError: `unknown_device`, `device_offline`, or `model_not_served`.
    """
    registry.require_device(tx, device, scope)
    selection = Selection(device=device)
    presence = tx.devices.presence(selection).get(device)
    if presence is None or presence.state != "online":
        raise PeerError(
            f"{device} is offline, and labels are not kept for it",
            code="device_offline",
            hint="give them again when `fleet devices` shows it online",
        )
    said = tx.states.reported(selection, model)
    if not any(row.active_version is not None for row in said):
        raise PeerError(
            f"{device} serves no {model[:80]!r}",
            code="model_not_served",
            hint=f"`fleet device show {device}` shows what it serves",
        )
    labels = list(labels)
    acts.about(f"{device} {model}, {len(labels)} labels")
    return [codec.encode(Feedback(model=model, labels=part)) for part in _parts(labels)]


def _parts(labels: Iterable[GivenLabel]) -> Iterator[tuple[GivenLabel, ...]]:
    part: list[GivenLabel] = []
    used_bytes = HEAD_BYTES
    for label in labels:
        size_bytes = len(codec.encode(label)) + 1
        is_full = len(part) == MAX_RELAYED_LABELS or used_bytes + size_bytes > MAX_MESSAGE_BYTES
        if part and is_full:
            yield tuple(part)
            part, used_bytes = [], HEAD_BYTES
        part.append(label)
        used_bytes += size_bytes
    if part:
        yield tuple(part)
