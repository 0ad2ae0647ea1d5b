"""What a domain of a TFDV schema has against the values of a feature.

The rules, their order and their codes are those of TFDV's anomalies/*_domain_util.cc (1.16).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from .reason import FeatureView, Reason, listed, percent
from .statistics import NO_TEXT, NUMBER, WHOLE

Domains = Mapping[str, Any]
"""The schema's named string domains."""

_BYTES, _INT, _FLOAT = schema_pb2.BYTES, schema_pb2.INT, schema_pb2.FLOAT
ALLOWED_TYPES: Final[Mapping[str, frozenset[int]]] = {
    "domain": frozenset({_BYTES}),
    "string_domain": frozenset({_BYTES}),
    "bool_domain": frozenset({_INT, _BYTES, _FLOAT}),
    "int_domain": frozenset({_INT, _BYTES}),
    "float_domain": frozenset({_FLOAT, _BYTES}),
    "struct_domain": frozenset({schema_pb2.STRUCT}),
    "natural_language_domain": frozenset({_BYTES}),
    "image_domain": frozenset({_BYTES}),
    "mid_domain": frozenset({_BYTES}),
    "url_domain": frozenset({_BYTES}),
    "time_domain": frozenset({_INT, _BYTES}),
    "time_of_day_domain": frozenset({_INT, _BYTES}),
}
CHECKED: Final = frozenset({"domain", "string_domain", "bool_domain", "int_domain", "float_domain"})
MAX_INT: Final = 2**63


def check_domain(
    view: FeatureView, feature: Any, kind: str | None, domains: Domains
) -> list[Reason]:
    """Return what the feature's domain has against its values.

    Args:
        view: Statistics, of one value or more.
        feature: The schema's.
        kind: Its domain that is filled, None where that does not hold or there is none.
        domains: By name, for `domain`.
    """
    if kind == "domain":
        return _check_texts(view, feature, domains[feature.domain])
    if kind == "string_domain":
        return _check_texts(view, feature, feature.string_domain)
    if kind == "bool_domain":
        return _check_bools(view, feature.bool_domain)
    if kind == "int_domain":
        return _check_ints(view, feature.int_domain)
    if kind == "float_domain":
        return _check_floats(view, feature.float_domain)
    return []


def _check_texts(view: FeatureView, feature: Any, domain: Any) -> list[Reason]:
    if NO_TEXT in view.counts or view.message.string_stats.invalid_utf8_count:
        return [Reason("ENUM_TYPE_INVALID_UTF8", "holds text that is no UTF-8")]
    known = set(domain.value)
    unknown = {value: count for value, count in sorted(view.counts.items()) if value not in known}
    constraints = feature.distribution_constraints
    has_mass = constraints.HasField("min_domain_mass")
    allowed = 1.0 - constraints.min_domain_mass if has_mass else 0.0
    total = float(view.common.tot_num_values)
    share = sum(unknown.values()) / total if total else 0.0
    if not unknown or (share <= allowed and allowed > 0):
        return []
    most = sorted(unknown, key=lambda value: (-unknown[value], value))
    text = (
        f"holds {listed(most)}, which the schema does not know, in {percent(share)} of its values"
    )
    return [Reason("ENUM_TYPE_UNEXPECTED_STRING_VALUES", text)]


def _check_bools(view: FeatureView, domain: Any) -> list[Reason]:
    numbers = view.numbers
    if view.type == statistics_pb2.FeatureNameStatistics.INT:
        for code, value, is_odd in (
            ("BOOL_TYPE_SMALL_INT", numbers.min, numbers.min < 0),
            ("BOOL_TYPE_BIG_INT", numbers.max, numbers.max > 1),
        ):
            if is_odd:
                return [Reason(code, f"holds {value:g}, and a boolean is 0 or 1")]
        return []
    if view.type == statistics_pb2.FeatureNameStatistics.FLOAT:
        odd = _no_boolean(numbers)
        text = f"holds {odd}, and a boolean is 0 or 1"
        return [Reason("BOOL_TYPE_UNEXPECTED_FLOAT", text)] if odd is not None else []
    known = {
        value
        for field, value in (("true_value", domain.true_value), ("false_value", domain.false_value))
        if domain.HasField(field)
    }
    odd_texts = sorted(set(view.counts) - known)
    if not odd_texts:
        return []
    text = f"holds {listed(odd_texts)} where a boolean is {' or '.join(map(repr, sorted(known)))}"
    return [Reason("BOOL_TYPE_UNEXPECTED_STRING", text)]


def _no_boolean(numbers: Any) -> str | None:
    """Return a float that is neither 0 nor 1, in words; inside a bin of 0 or 1 none is seen."""
    for end in (numbers.min, numbers.max):
        if end not in (0.0, 1.0):
            return f"{end:g}"
    for histogram in numbers.histograms:
        if histogram.num_nan > 0:
            return "NaN"
        for bucket in histogram.buckets:
            low, high = bucket.low_value, bucket.high_value
            if bucket.sample_count > 0 and (high < 0 or low > 1 or (high < 1 and low > 0)):
                return f"values from {low:g} to {high:g}"
    return None


def _check_ints(view: FeatureView, domain: Any) -> list[Reason]:
    if view.counts:
        odd = [value for value in sorted(view.counts) if not is_int(value)]
        if odd:
            text = f"holds {listed(odd)}, which are no whole numbers"
            return [Reason("INT_TYPE_NOT_INT_STRING", text)]
        ends = [int(value) for value in view.counts]
        low, high = min(ends), max(ends)
    elif view.type == statistics_pb2.FeatureNameStatistics.INT and view.has_numbers:
        low, high = int(view.numbers.min), int(view.numbers.max)
    else:
        return []
    found = []
    if domain.HasField("min") and low < domain.min:
        found.append(Reason("INT_TYPE_SMALL_INT", f"holds {low}, and the least is {domain.min}"))
    if domain.HasField("max") and high > domain.max:
        found.append(Reason("INT_TYPE_BIG_INT", f"holds {high}, and the most is {domain.max}"))
    return found


def is_int(text: str) -> bool:
    """Return whether a text is a whole number of 64 bits."""
    return WHOLE.fullmatch(text) is not None and -MAX_INT <= int(text) < MAX_INT


def _check_floats(view: FeatureView, domain: Any) -> list[Reason]:
    if view.type == statistics_pb2.FeatureNameStatistics.FLOAT:
        found = _check_nan(domain, view.nan_count)
        # Of NaN alone TFDV takes the range for 0 to 0.
        has_range = any(histogram.buckets for histogram in view.numbers.histograms)
        return found + _check_range(
            domain, view.numbers.min, view.numbers.max, is_of_nan=not has_range
        )
    numbers = [value for value in view.counts if re.fullmatch(NUMBER, value)]
    odd = sorted(view.counts.keys() - set(numbers))
    values = [float(value) for value in numbers]
    found = _check_nan(domain, sum(map(math.isnan, values)))
    if odd:
        text = f"holds {listed(odd)}, which are no numbers"
        return [*found, Reason("FLOAT_TYPE_STRING_NOT_FLOAT", text)]
    ends = [value for value in values if not math.isnan(value)]
    return found + (_check_range(domain, min(ends), max(ends)) if ends else [])


def _check_nan(domain: Any, count: int) -> list[Reason]:
    is_odd = domain.disallow_nan and count > 0
    return [Reason("FLOAT_TYPE_HAS_NAN", "holds NaN, which the schema forbids")] if is_odd else []


def _check_range(domain: Any, low: float, high: float, *, is_of_nan: bool = False) -> list[Reason]:
    # The schema's limits are float32, and so TFDV compares.
    with np.errstate(over="ignore"):
        low, high = float(np.float32(low)), float(np.float32(high))
    least, most = ("only NaN",) * 2 if is_of_nan else (f"{low:g}", f"{high:g}")
    found = []
    if domain.HasField("min") and low < domain.min:
        text = f"holds {least}, and the least is {domain.min:g}"
        found.append(Reason("FLOAT_TYPE_SMALL_FLOAT", text))
    if domain.HasField("max") and high > domain.max:
        text = f"holds {most}, and the most is {domain.max:g}"
        found.append(Reason("FLOAT_TYPE_BIG_FLOAT", text))
    if domain.disallow_inf and (math.isinf(low) or math.isinf(high)):
        found.append(
            Reason("FLOAT_TYPE_HAS_INF", "holds infinite values, which the schema forbids")
        )
    return found
