"""How far a feature lies from the one before, or from the one in service: a schema's comparators.

TFDV passes in silence what it cannot compare; here it is told. Where the edges of two histograms
differ TFDV 1.16 forgets their NaN (metrics.cc, RebucketHistogram); here they match nothing, as its
own comment says. In a table NaN is missing, and counts in neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from tensorflow_metadata.proto.v0 import statistics_pb2

from fleet.core.distances import Histogram, jensen_shannon_bits, jensen_shannon_bits_of

from .reason import FeatureView, Reason

SIDES: Final[Mapping[str, str]] = {"drift": "the previous data", "skew": "the data in service"}


@dataclass(frozen=True, slots=True)
class Measurement:
    """A distance that a schema has a threshold for.

    Attributes:
        feature: Its name.
        comparator: drift, from the previous data; skew, from the data in service.
        kind: L_INFTY, the largest difference of a value's shares; or JENSEN_SHANNON_DIVERGENCE, in bits.
        value: The distance, 0 to 1.
        threshold: Above it is an anomaly.
    """

    feature: str
    comparator: str
    kind: str
    value: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Unmade:
    """A comparison that the schema asks for and that could not be made.

    Attributes:
        feature: Its name; "" is the whole data set.
        comparator: drift, skew or version.
        sentence: Why.
    """

    feature: str
    comparator: str
    sentence: str


Compared = tuple[list[Reason], list[Measurement], list[Unmade]]


def compare(
    name: str, comparator: str, wanted: Any, view: FeatureView, control: Mapping[str, Any] | None
) -> Compared:
    """Return what a comparator has against a feature, what it measured, and what it could not.

    Args:
        name: Of the feature.
        comparator: drift or skew.
        wanted: The schema's `FeatureComparator`.
        view: The feature's statistics, of one value or more.
        control: Statistics of the other data's features by name; None without other data.
    """
    has_norm = wanted.infinity_norm.HasField("threshold")
    has_divergence = wanted.jensen_shannon_divergence.HasField("threshold")
    if not has_norm and not has_divergence:
        return [], [], []
    side = SIDES[comparator]
    if control is None:
        return [], [], [Unmade(name, comparator, f"{name!r}: {side} are not given")]
    if name not in control:
        reason = Reason("COMPARATOR_CONTROL_DATA_MISSING", f"is not in {side}")
        return [reason], [], []
    other = FeatureView(control[name])
    reasons, measured, unmade = [], [], []
    if has_norm:
        threshold = wanted.infinity_norm.threshold
        value, most = _infinity_norm(view.counts, other.counts)
        measured.append(Measurement(name, comparator, "L_INFTY", value, threshold))
        if not view.counts and not other.counts:
            text = f"{name!r}: infinity_norm is for text, this holds numbers or nothing"
            unmade.append(Unmade(name, comparator, text))
        elif value > threshold:
            text = f"lies {value:.4g} from {side} (L-infinity), most at {most[:64]!r}; at most {threshold:g} is allowed"
            reasons.append(Reason("COMPARATOR_L_INFTY_HIGH", text))
    if has_divergence:
        threshold = wanted.jensen_shannon_divergence.threshold
        bits = _divergence(view, other)
        if bits is None:
            text = f"{name!r}: {side} hold no values of its kind"
            unmade.append(Unmade(name, comparator, text))
        else:
            kind = "JENSEN_SHANNON_DIVERGENCE"
            measured.append(Measurement(name, comparator, kind, bits, threshold))
            if bits > threshold:
                text = f"lies {bits:.4g} bits from {side} (Jensen-Shannon); at most {threshold:g} is allowed"
                reasons.append(Reason("COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH", text))
    return reasons, measured, unmade


def _infinity_norm(a: Mapping[str, float], b: Mapping[str, float]) -> tuple[float, str]:
    """Return the largest difference of shares, and the value that it is of."""
    totals = [sum(side.values()) or 1.0 for side in (a, b)]
    gaps = {
        value: abs(a.get(value, 0.0) / totals[0] - b.get(value, 0.0) / totals[1])
        for value in sorted(a.keys() | b.keys())
    }
    most = max(gaps, key=lambda value: (gaps[value], value), default="")
    return gaps.get(most, 0.0), most


def _divergence(view: FeatureView, other: FeatureView) -> float | None:
    """Return the Jensen-Shannon divergence in bits; None where one side has nothing like it."""
    if view.counts and other.counts:
        values = sorted(view.counts.keys() | other.counts.keys())
        a, b = (np.array([c.get(v, 0.0) for v in values]) for c in (view.counts, other.counts))
        return jensen_shannon_bits(a, b)
    a_bins, b_bins = _histogram(view), _histogram(other)
    if a_bins is None or b_bins is None:
        return None
    return jensen_shannon_bits_of(a_bins, b_bins)


def _histogram(view: FeatureView) -> Histogram | None:
    """Return the bins of equal width, infinities counted as missing: like NaN they match nothing."""
    kind = statistics_pb2.Histogram.STANDARD
    found = next((h for h in view.numbers.histograms if h.type == kind), None)
    if found is None:
        return None
    buckets = [b for b in found.buckets if np.isfinite([b.low_value, b.high_value]).all()]
    total = sum(bucket.sample_count for bucket in found.buckets)
    counts = tuple(bucket.sample_count for bucket in buckets)
    edges = tuple(bucket.low_value for bucket in buckets)
    ends = (buckets[-1].high_value,) if buckets else ()
    infinite = total - sum(counts)
    missing = float(found.num_nan) + (infinite if len(buckets) < len(found.buckets) else 0.0)
    return Histogram((*edges, *ends), counts, missing) if missing + sum(counts) > 0 else None
