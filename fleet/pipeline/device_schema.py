"""A TFDV schema in the bundle's words: what devices check in each request."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from tensorflow_metadata.proto.v0 import schema_pb2

from wire.codec import first_fault
from wire.errors import ConfigError
from wire.schema import MAX_CATEGORY_CHARS, MAX_FEATURES, Action, FeatureCheck, Reason, Schema

from .anomalies import is_in, is_retired
from .tfdv import SERVING

MAX_CATEGORIES: Final = 256
"""As devices take them."""
MAX_EXACT: Final = 2**53
"""Beyond it a limit may be off by some: devices compare in doubles."""
TAGS: Final[Mapping[str, Action]] = {
    "device:reject": "reject",
    "device:flag": "flag",
    "device:pass": "pass",
}
"""Of a feature's `annotation`: what becomes of a request that breaks the schema; else it is counted."""


@dataclass(frozen=True, slots=True)
class DeviceSchema:
    """What a device can check of a TFDV schema.

    Attributes:
        schema: For the bundle.
        unexpressed: Sentences on what it cannot check in a single request.
    """

    schema: Schema
    unexpressed: tuple[str, ...]


def device_schema(
    tfdv: schema_pb2.Schema,
    *,
    nan_policy: str = "reject",
    environment: str = SERVING,
    names: Collection[str] | None = None,
) -> DeviceSchema:
    """Return the checks of the features that are there when a model serves.

    A feature with limits is flagged beyond them, or what its tag says (`TAGS`). Missing values and
    infinities are the manifest's `nan_policy`, which a schema can make stricter and not laxer.

    Args:
        tfdv: The schema; all features belong to an environment that it does not have.
        nan_policy: Of the manifest, `reject` or `pass`.
        environment: In which the model serves.
        names: Features of the model; None takes all.

    Raises:
        ConfigError: `schema_invalid`: devices could not read it.
    """
    domains = {domain.name: domain for domain in tfdv.string_domain}
    where = environment if environment in tfdv.default_environment else None
    checks, unexpressed = [], []
    for feature in tfdv.feature:
        if is_retired(feature) or not is_in(feature, tfdv, where):
            continue
        if names is not None and feature.name not in names:
            unexpressed.append(f"{feature.name!r} is no feature of the model")
            continue
        unexpressed += [f"{feature.name!r}: {what}" for what in _unexpressed(feature, domains)]
        limits = _limits(feature, domains, nan_policy)
        if limits:
            checks.append((feature.name, limits))
    if tfdv.HasField("dataset_constraints"):
        unexpressed.append("dataset_constraints are about many rows")
    if len(checks) > MAX_FEATURES:
        raise ConfigError(f"the schema has over {MAX_FEATURES} features", code="schema_invalid")
    try:
        schema = Schema(features=tuple(FeatureCheck(name=n, **limits) for n, limits in checks))
    except ValidationError as exc:
        fault = first_fault(exc)
        raise ConfigError(
            f"no device can read this schema: {fault}", code="schema_invalid"
        ) from exc
    return DeviceSchema(schema, tuple(unexpressed))


def _limits(feature: Any, domains: Mapping[str, Any], nan_policy: str) -> dict[str, Any]:
    """Return the fields of a check, empty where there is nothing to check."""
    action = _action(feature)
    limits: dict[str, Any] = {}
    low, high = _range(feature)
    if low is not None or high is not None:
        ends = {"low": low, "high": high}
        limits |= {n: end for n, end in ends.items() if end is not None} | {"range": action}
    categories = _categories(feature, domains)
    if _are_expressible(categories):
        # A row without text holds the empty one.
        is_required = feature.presence.min_fraction == 1
        empty = () if is_required or "" in categories else ("",)
        limits |= {"categories": (*categories, *empty)[:MAX_CATEGORIES], "category": action}
    is_number = feature.type in (schema_pb2.FLOAT, schema_pb2.INT)
    asks: dict[Reason, bool] = {
        "missing": feature.float_domain.disallow_nan or feature.presence.min_fraction == 1,
        "infinite": feature.float_domain.disallow_inf,
    }
    for reason, is_asked in asks.items():
        if is_number and is_asked and action != "pass" and nan_policy != "reject":
            limits[reason] = action
    return limits


def _action(feature: Any) -> Action:
    return next((TAGS[tag] for tag in feature.annotation.tag if tag in TAGS), "flag")


def _range(feature: Any) -> tuple[float | None, float | None]:
    kind = feature.WhichOneof("domain_info")
    if feature.type not in (schema_pb2.FLOAT, schema_pb2.INT):
        return None, None
    if kind == "bool_domain":
        return 0.0, 1.0
    if kind not in ("int_domain", "float_domain"):
        return None, None
    domain = getattr(feature, kind)
    low = float(domain.min) if domain.HasField("min") else None
    high = float(domain.max) if domain.HasField("max") else None
    return _finite(low), _finite(high)


def _finite(limit: float | None) -> float | None:
    return limit if limit is not None and math.isfinite(limit) else None


def _categories(feature: Any, domains: Mapping[str, Any]) -> tuple[str, ...]:
    kind = feature.WhichOneof("domain_info")
    if feature.type != schema_pb2.BYTES:
        return ()
    if kind == "bool_domain":
        domain = feature.bool_domain
        fields = ("true_value", "false_value")
        return tuple(getattr(domain, field) for field in fields if domain.HasField(field))
    if kind == "string_domain":
        return tuple(dict.fromkeys(feature.string_domain.value))
    if kind == "domain" and feature.domain in domains:
        return tuple(dict.fromkeys(domains[feature.domain].value))
    return ()


def _are_expressible(categories: tuple[str, ...]) -> bool:
    longest = max(map(len, categories), default=0)
    return bool(categories) and len(categories) <= MAX_CATEGORIES and longest <= MAX_CATEGORY_CHARS


def _unexpressed(feature: Any, domains: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a schema says of a feature and no device checks."""
    categories = _categories(feature, domains)
    if categories and not _are_expressible(categories):
        yield (
            f"its {len(categories)} values are not checked: a device takes {MAX_CATEGORIES}, of"
            f" {MAX_CATEGORY_CHARS} characters"
        )
    kind = feature.WhichOneof("domain_info")
    is_text = feature.type == schema_pb2.BYTES
    if kind is not None and kind not in ("domain", "string_domain", "bool_domain"):
        if is_text or kind not in ("int_domain", "float_domain"):
            yield f"its {kind} is not checked"
        elif any(abs(limit or 0) > MAX_EXACT for limit in _range(feature)):
            yield "its range is checked in doubles, which are not exact beyond 2^53"
    for field, why in (
        ("unique_constraints", "are about many rows"),
        ("distribution_constraints", "are about many rows; every unknown value is told"),
        ("drift_comparator", "is about many rows; the fleet's own drift watch looks at these"),
        ("skew_comparator", "is about many rows; the fleet's own drift watch looks at these"),
    ):
        if feature.HasField(field):
            yield f"its {field} {why}"
    if 0 < feature.presence.min_fraction < 1 or feature.presence.min_count > 1:
        yield "how many rows must have it is about many rows"
