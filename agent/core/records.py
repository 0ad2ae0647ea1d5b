"""What a record is worth: which ones go first when not all can be kept."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from wire.topics import Event, Telemetry, parse

MAX_BYTES: Final = 8 * 1024 * 1024
"""About 13,000 records of 400 bytes: four days offline at two a minute."""
LEAST_BYTES: Final = 128 * 1024
"""What an outbox may take of any disk, the fullest too: room for some hundred alarms that say so."""
MIN_FREE_BYTES: Final = 4 * 1024 * 1024
"""Where less of the disk is free, records take no more of it. Updates leave 16 MiB: an outbox at its
fullest takes 8 of them and its journal 4, so that only what others write brings it here."""


class RecordClass(IntEnum):
    """Of two classes the lower one goes first; within one the oldest."""

    VITALS = 0
    WINDOW = 1
    EVENT = 2


TELEMETRY: Final = (RecordClass.WINDOW, RecordClass.VITALS)

CLASS_OF_EVENT: Final[Mapping[str, RecordClass]] = {
    "update": RecordClass.EVENT,
    "alarm": RecordClass.EVENT,
    "gap": RecordClass.EVENT,
    "chunks_missing": RecordClass.EVENT,  # a request, never a record
}
CLASS_OF_TELEMETRY: Final[Mapping[str, RecordClass]] = {
    "window": RecordClass.WINDOW,
    "inference": RecordClass.WINDOW,
    "performance": RecordClass.WINDOW,
    "shadow": RecordClass.WINDOW,
    "vitals": RecordClass.VITALS,
}
"""Both name every kind of `wire.topics`, as a test sees to: a new one is placed on purpose."""


def class_of(topic: str) -> RecordClass:
    """Return the class of the records on a topic; total.

    What this program does not know, since a newer one wrote it, is worth the least to it.
    """
    match parse(topic):
        case Event(kind=kind):
            return CLASS_OF_EVENT.get(kind, RecordClass.VITALS)
        case Telemetry(kind=measured):
            return CLASS_OF_TELEMETRY.get(measured, RecordClass.VITALS)
        case _:
            return RecordClass.VITALS
