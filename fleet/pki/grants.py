"""Who may read and write which topic: one table, from what `wire/topics.py` says of each.

Every broker's configuration is made from it, and `fleet audit` holds a broker to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Final, get_args

from wire import topics

DEVICE: Final = "{device}"
"""Stands in a filter for the id of the device whose rights it describes."""
CONTROLLER_NAME: Final = "fleet.controller"
OBSERVER_NAME: Final = "fleet.observer"
AUDITOR_NAME: Final = "fleet.audit"
"""Common names of programs. A device's id has no dot in it, so that none can be taken for one.

The auditor may do everything; its certificates are made for one audit, and live for minutes."""
DEVICE_DAYS: Final = 30
"""How long a device's certificate holds."""
CERTIFICATE_URN: Final = "urn:modelfleet:certificate:"
"""A certificate's second name, with its serial number: NATS knows users by it, one by one."""
EVERYTHING: Final = f"{topics.ROOT}/#"
RECORDS: Final[Mapping[Any, tuple[str, ...]]] = {
    topics.Event: topics.EVENT_KINDS,
    topics.Telemetry: topics.TELEMETRY_KINDS,
}
"""What the topics of records are of."""
NOT_FOR_DEVICES: Final = frozenset({topics.ControllerAlert})
"""What the controller writes for observers: it speaks of all devices."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What may be done on the topics that `filter` selects; `DEVICE` in it is the device's own id.

    Nobody may do what is not granted. Controller and observers read everything.
    """

    filter: str
    device_reads: bool
    device_writes: bool
    controller_writes: bool

    @property
    def is_own(self) -> bool:
        """Whether each device has topics of its own here."""
        return DEVICE in self.filter

    def of(self, device: str) -> str:
        """Return the filter for one device, or for all with `+`."""
        return self.filter.replace(DEVICE, device)


def observer_name(name: str) -> str:
    """Return the common name of a further observer: each has one connection at a time."""
    return f"{OBSERVER_NAME}.{name}"


def is_observer(name: str) -> bool:
    """Return whether a common name is of an observer."""
    return name == OBSERVER_NAME or name.startswith(f"{OBSERVER_NAME}.")


@cache
def grants() -> tuple[Grant, ...]:
    """Return the table, one row per kind of topic; of records, one per kind of record.

    Where a device might choose a topic's name, it could have the broker retain messages without end.
    """
    return tuple(
        _grant(kind, record)
        for kind in get_args(topics.Topic)
        if kind is not topics.Unknown
        for record in RECORDS.get(kind, ("+",))
    )


def _grant(kind: Any, record: str) -> Grant:
    names = {field.name for field in fields(kind)}
    fixed = {"device": DEVICE, "kind": record}
    topic = kind(**{name: fixed.get(name, "+") for name in names})
    is_controllers = kind.writer == "controller"
    return Grant(
        filter=topic.text,
        # Of what it wrote itself, a device may see what is retained: `fleet-agent doctor` compares.
        device_reads=(is_controllers or kind.retain) and kind not in NOT_FOR_DEVICES,
        device_writes=not is_controllers,
        # Of a device that is removed, the controller clears what is retained, whoever retained it.
        controller_writes=True,
    )
