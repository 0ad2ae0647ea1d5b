"""One thing that a schema has against a feature: TFDV's code for it, and words for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2


class Reason(NamedTuple):
    """A code of `AnomalyInfo.Type`, and what is the matter, to follow the feature's name."""

    code: str
    text: str


_STATISTICS: Final = statistics_pb2.FeatureNameStatistics
SCHEMA_TYPES: Final[Mapping[int, int]] = {
    _STATISTICS.INT: schema_pb2.INT,
    _STATISTICS.FLOAT: schema_pb2.FLOAT,
    _STATISTICS.STRING: schema_pb2.BYTES,
    _STATISTICS.BYTES: schema_pb2.BYTES,
    _STATISTICS.STRUCT: schema_pb2.STRUCT,
}
"""What a schema calls the type of statistics."""


class FeatureView:
    """The statistics of one feature, whatever message of them is filled."""

    def __init__(self, message: Any) -> None:
        """Look at a `FeatureNameStatistics`."""
        self.message = message
        self.type: int = message.type
        filled = message.WhichOneof("stats")
        self.has_numbers = filled == "num_stats"
        self.has_texts = filled == "string_stats"
        self.is_filled = filled is not None
        self.common = (
            getattr(message, filled).common_stats if filled else message.num_stats.common_stats
        )
        self.numbers = message.num_stats
        self.counts: dict[str, float] = {
            bucket.label: bucket.sample_count
            for bucket in message.string_stats.rank_histogram.buckets
        }

    @property
    def missing_count(self) -> int:
        """Rows without a value."""
        return int(self.common.num_missing)

    @property
    def count(self) -> int:
        """Rows with a value."""
        return int(self.common.num_non_missing)

    @property
    def nan_count(self) -> int:
        """Values that are NaN."""
        return max((int(h.num_nan) for h in self.numbers.histograms), default=0)


def name_of(message: Any) -> str:
    """Return the name of the feature that statistics are of."""
    return ".".join(message.path.step) if message.path.step else str(message.name)


def listed(values: list[str], limit: int = 5) -> str:
    """Return values in words, the first ones."""
    shown = ", ".join(repr(value[:64]) for value in values[:limit])
    return f"{shown} and {len(values) - limit} more" if len(values) > limit else shown


def percent(ratio: float) -> str:
    """Return a share in words."""
    return f"{100 * ratio:.3g} %"
