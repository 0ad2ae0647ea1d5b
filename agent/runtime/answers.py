"""The answers that a label may still come for: a ring, bounded by rows and by bytes."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

Label = bool | int | float | str
"""A class, or the number that a regression answers."""

ENTRY_BYTES: Final = 480
"""What one request takes beside its id and its rows: its place in the ring, two lists, a mask."""
ROW_BYTES: Final = 80
"""Of one row: a number, a score, and their places in the lists."""


@dataclass(slots=True)
class Remembered:
    """What one request was answered.

    Attributes:
        labels: Of each row.
        scores: The highest class probability of each row, None where it is no number; or None of a
            model without any.
        size_bytes: What this takes, about.
        labelled: A bit for each row whose label came.
    """

    labels: list[Label]
    scores: list[float | None] | None
    size_bytes: int
    labelled: int = 0


class AnswerRing:
    """Requests by their id, the newest ones; for the event loop only.

    When it is full the oldest go. An id that comes again takes the place of the one before.
    """

    def __init__(self, max_rows: int, max_bytes: int) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Remembered] = OrderedDict()
        self.row_count = 0
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(
        self, request: str, labels: list[Label], scores: list[float | None] | None = None
    ) -> None:
        """Remember an answer; one that is larger than the whole ring is left out."""
        size = ENTRY_BYTES + sys.getsizeof(request) + _size_bytes(labels)
        if len(labels) > self._max_rows or size > self._max_bytes:
            return
        if (before := self._kept.pop(request, None)) is not None:
            self._gone(before)
        self._kept[request] = Remembered(labels, scores, size)
        self.row_count += len(labels)
        self.size_bytes += size
        while self.row_count > self._max_rows or self.size_bytes > self._max_bytes:
            self._gone(self._kept.popitem(last=False)[1])

    def get(self, request: str) -> Remembered | None:
        """Return what a request was answered, if it is still here."""
        return self._kept.get(request)

    def _gone(self, entry: Remembered) -> None:
        self.row_count -= len(entry.labels)
        self.size_bytes -= entry.size_bytes


def _size_bytes(labels: Sequence[Label]) -> int:
    size = ROW_BYTES * len(labels)
    if labels and isinstance(labels[0], str):
        size += sum(sys.getsizeof(label) for label in labels)
    return size
