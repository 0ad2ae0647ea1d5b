"""What a TFDV schema has against a data set, by its statistics: ExampleValidator's checks.

Rules, order and codes are those of TFDV 1.16 (anomalies/schema.cc, feature_util.cc and
dataset_constraints_util.cc); recorded answers of TFDV are compared with in the tests. On purpose
it is stricter in two things: a comparison that cannot be made is told, and a maximum of rows holds
where no minimum is given too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_metadata.proto.v0.schema_pb2 import Schema
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatisticsList as Statistics

from wire.errors import ConfigError

from .comparators import SIDES, Measurement, Unmade, compare
from .domains import ALLOWED_TYPES, CHECKED, check_domain
from .reason import SCHEMA_TYPES, FeatureView, Reason, name_of, percent

RETIRED: Final = frozenset(
    {
        schema_pb2.PLANNED,
        schema_pb2.ALPHA,
        schema_pb2.DEPRECATED,
        schema_pb2.DEBUG_ONLY,
        schema_pb2.DISABLED,
    }
)
"""Stages of a feature's life in which nothing is asked of it."""
_TYPE_NAMES: Final = {number: name for name, number in schema_pb2.FeatureType.items()}


class Severity(StrEnum):
    """How bad an anomaly is, by TFDV's names; all are errors unless the caller says otherwise."""

    ERROR = "ERROR"
    WARNING = "WARNING"


class Verdict(StrEnum):
    """What a validation comes to."""

    VALID = "valid"
    ANOMALOUS = "anomalous"
    NO_BASELINE = "no baseline"
    """Nothing is wrong that could be seen, but a comparison that the schema asks for was not made."""
    NO_DATA = "no data"


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One thing that the schema has against the data.

    Attributes:
        feature: Its name; "" is the whole data set.
        reason: TFDV's code, a name of `AnomalyInfo.Type`.
        severity: How bad it is.
        sentence: What is the matter, for people.
    """

    feature: str
    reason: str
    severity: Severity
    sentence: str


@dataclass(frozen=True, slots=True)
class Validation:
    """All that a schema has to say of a data set.

    Attributes:
        row_count: Rows that were looked at.
        anomalies: In the order of the data's features, then the missing ones, then the data set's.
        measurements: Distances that the schema has thresholds for.
        unmade: Comparisons that it asks for and that could not be made.
        unchecked: Sentences on what it says and nobody here checks.
    """

    row_count: int
    anomalies: tuple[Anomaly, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    unmade: tuple[Unmade, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst of what was found; warnings alone leave the data valid."""
        if not self.row_count:
            return Verdict.NO_DATA
        if any(anomaly.severity is Severity.ERROR for anomaly in self.anomalies):
            return Verdict.ANOMALOUS
        return Verdict.NO_BASELINE if self.unmade else Verdict.VALID


def validate(
    statistics: Statistics,
    schema: Schema,
    *,
    environment: str | None = None,
    previous: Statistics | None = None,
    serving: Statistics | None = None,
    previous_version: Statistics | None = None,
    overrides: Mapping[str, Severity] = MappingProxyType({}),
) -> Validation:
    """Return what a schema has against statistics.

    Args:
        statistics: Of the data.
        schema: What it should be like.
        environment: Which of the schema's is meant, such as SERVING, where labels are not asked for.
        previous: Of the data before: what drift is measured from.
        serving: Of the data in service: what skew is measured from.
        previous_version: Of another version of the same data, to compare the number of rows.
        overrides: Severity by code, where it is another than ERROR.

    Raises:
        ConfigError: `environment_unknown`.
    """
    if environment is not None and environment not in schema.default_environment:
        raise ConfigError(
            f"the schema has no environment {environment!r}",
            code="environment_unknown",
            hint=f"it has {', '.join(map(repr, schema.default_environment)) or 'none'}",
        )
    data = statistics.datasets[0] if statistics.datasets else None
    if data is None or not data.num_examples:
        return Validation(0)
    controls = {"drift": _by_name(previous), "skew": _by_name(serving)}
    check = _Check(schema, environment, controls)
    found: list[tuple[str, Reason]] = []
    present = _by_name(statistics) or {}
    for name, message in present.items():
        found += [(name, reason) for reason in check.feature(name, FeatureView(message), data)]
    found += check.absent(present)
    others = {"drift": _rows_of(previous), "version": _rows_of(previous_version)}
    found += [("", reason) for reason in check.size(data.num_examples, others)]
    return Validation(
        row_count=int(data.num_examples),
        anomalies=tuple(
            Anomaly(
                name,
                reason.code,
                overrides.get(reason.code, Severity.ERROR),
                f"feature {name!r} {reason.text}" if name else f"the data {reason.text}",
            )
            for name, reason in found
        ),
        measurements=tuple(check.measured),
        unmade=tuple(check.unmade),
        unchecked=tuple(_unchecked(schema)),
    )


def _rows_of(statistics: Statistics | None) -> int | None:
    if statistics is None or not statistics.datasets:
        return None
    return int(statistics.datasets[0].num_examples)


def _by_name(statistics: Statistics | None) -> dict[str, Any] | None:
    """Return the statistics of features by name, None without any."""
    if statistics is None or not statistics.datasets:
        return None
    features = statistics.datasets[0].features
    return {name_of(message): message for message in features if message.WhichOneof("stats")}


def is_retired(feature: Any) -> bool:
    """Return whether a schema's feature is out of use, or not yet in it."""
    return bool(feature.deprecated) or feature.lifecycle_stage in RETIRED


def is_in(feature: Any, schema: Schema, environment: str | None) -> bool:
    """Return whether a feature belongs to an environment; all belong to none."""
    if environment is None or environment in feature.in_environment:
        return True
    return (
        environment not in feature.not_in_environment and environment in schema.default_environment
    )


class _Check:
    """One validation, and what it notes on its way."""

    def __init__(
        self,
        schema: Schema,
        environment: str | None,
        controls: Mapping[str, Mapping[str, Any] | None],
    ) -> None:
        self._schema, self._environment, self._controls = schema, environment, controls
        self._features = {feature.name: feature for feature in schema.feature}
        self._domains = {domain.name: domain for domain in schema.string_domain}
        self.measured: list[Measurement] = []
        self.unmade: list[Unmade] = []

    def feature(self, name: str, view: FeatureView, data: Any) -> Iterator[Reason]:
        """Yield what is against a feature that the data has."""
        feature = self._features.get(name)
        if feature is None:
            yield Reason("SCHEMA_NEW_COLUMN", "is not in the schema")
            return
        if is_retired(feature):
            return
        kind, wanted, faults = _self_check(feature, self._domains)
        yield from faults
        if wanted is None:
            return
        if not view.count:
            if self._is_required(feature):
                yield Reason("FEATURE_TYPE_NOT_PRESENT", "has no value in any row")
            self._note_empty(name, feature)
            return
        if not is_in(feature, self._schema, self._environment):
            text = f"does not belong to the environment {self._environment}"
            yield Reason("SCHEMA_NEW_COLUMN", text)
        yield from _check_counts(view, feature)
        yield from _check_presence(view, feature, int(data.num_examples))
        found = SCHEMA_TYPES.get(view.type, schema_pb2.TYPE_UNKNOWN)
        if found != wanted:
            text = f"is {_TYPE_NAMES[found]}, and the schema says {_TYPE_NAMES[wanted]}"
            yield Reason("UNEXPECTED_DATA_TYPE", text)
        yield from check_domain(view, feature, kind, self._domains)
        if feature.HasField("unique_constraints"):
            yield from _check_unique(view, feature.unique_constraints)
        for comparator in SIDES:
            wanted_distance = getattr(feature, f"{comparator}_comparator")
            control = self._controls[comparator]
            reasons, measured, unmade = compare(name, comparator, wanted_distance, view, control)
            self.measured += measured
            self.unmade += unmade
            yield from reasons

    def absent(self, present: Mapping[str, Any]) -> Iterator[tuple[str, Reason]]:
        """Yield the features that the schema asks for and the data does not have."""
        for feature in self._schema.feature:
            if feature.name not in present and self._is_required(feature):
                yield feature.name, Reason("SCHEMA_MISSING_COLUMN", "is missing")

    def size(self, row_count: int, others: Mapping[str, int | None]) -> Iterator[Reason]:
        """Yield what is against the number of rows."""
        limits = self._schema.dataset_constraints
        for comparator, words in (("drift", "the previous data"), ("version", "the other version")):
            wanted = getattr(limits, f"num_examples_{comparator}_comparator")
            is_asked = wanted.HasField("min_fraction_threshold") or wanted.HasField(
                "max_fraction_threshold"
            )
            other = others[comparator]
            if is_asked and other is None:
                self.unmade.append(
                    Unmade("", comparator, f"number of rows: no {words[4:]} is given")
                )
            elif is_asked and other is not None:
                yield from _check_ratio(wanted, row_count, other, words)
        if limits.HasField("min_examples_count") and row_count < limits.min_examples_count:
            text = f"has {row_count} rows, and the least is {limits.min_examples_count}"
            yield Reason("DATASET_LOW_NUM_EXAMPLES", text)
        if limits.HasField("max_examples_count") and row_count > limits.max_examples_count:
            text = f"has {row_count} rows, and the most is {limits.max_examples_count}"
            yield Reason("DATASET_HIGH_NUM_EXAMPLES", text)

    def _is_required(self, feature: Any) -> bool:
        is_asked = feature.presence.min_count > 0 or feature.presence.min_fraction > 0
        is_here = is_in(feature, self._schema, self._environment)
        return is_asked and not is_retired(feature) and is_here

    def _note_empty(self, name: str, feature: Any) -> None:
        for comparator in SIDES:
            wanted = getattr(feature, f"{comparator}_comparator")
            if wanted.infinity_norm.HasField("threshold") or (
                wanted.jensen_shannon_divergence.HasField("threshold")
            ):
                text = f"{name!r} has no value in any row"
                self.unmade.append(Unmade(name, comparator, text))


def _self_check(
    feature: Any, domains: Mapping[str, Any]
) -> tuple[str | None, int | None, list[Reason]]:
    """Return the domain to check, the type (None: check nothing), and what is wrong in the schema."""
    kind = feature.WhichOneof("domain_info")
    faults = []
    wanted: int | None = feature.type if feature.HasField("type") else None
    if wanted is None:
        faults.append(Reason("FEATURE_MISSING_TYPE", "has no type in the schema"))
        if kind not in ("domain", "string_domain"):
            return None, None, faults
        wanted = schema_pb2.BYTES
    if kind is not None and wanted not in ALLOWED_TYPES.get(kind, frozenset()):
        text = f"has a {kind} in the schema, which does not fit {_TYPE_NAMES[wanted]}"
        faults.append(Reason("DOMAIN_INVALID_FOR_TYPE", text))
        kind = None
    if kind == "domain" and feature.domain not in domains:
        text = f"names the domain {feature.domain!r}, which the schema does not have"
        faults.append(Reason("INVALID_SCHEMA_SPECIFICATION", text))
        kind = None
    if feature.HasField("distribution_constraints") and kind not in ("domain", "string_domain"):
        text = "has distribution_constraints in the schema, which only text with a domain can have"
        faults.append(Reason("INVALID_SCHEMA_SPECIFICATION", text))
    return kind, wanted, faults


def _check_counts(view: FeatureView, feature: Any) -> Iterator[Reason]:
    """Yield what is against one value a row, which is what a table has."""
    limits = feature.value_count
    low, high = int(view.common.min_num_values), int(view.common.max_num_values)
    if limits.HasField("min") and low < limits.min:
        text = f"has {low} values in a row, and the least is {limits.min}"
        yield Reason("FEATURE_TYPE_LOW_NUMBER_VALUES", text)
    if limits.HasField("max") and high > limits.max:
        text = f"has {high} values in a row, and the most is {limits.max}"
        yield Reason("FEATURE_TYPE_HIGH_NUMBER_VALUES", text)
    if feature.HasField("value_counts") and len(feature.value_counts.value_count) != 1:
        text = "has one level of values, and the schema says otherwise"
        yield Reason("VALUE_NESTEDNESS_MISMATCH", text)
    if feature.HasField("shape"):
        size = 1
        for dim in feature.shape.dim:
            size *= dim.size
        if view.missing_count or low != high:
            text = "has a fixed shape in the schema, and rows without a value"
            yield Reason("INVALID_FEATURE_SHAPE", text)
        elif low != size:
            text = f"has {low} value in a row, and the schema's shape is of {size}"
            yield Reason("INVALID_FEATURE_SHAPE", text)


def _check_presence(view: FeatureView, feature: Any, row_count: int) -> Iterator[Reason]:
    presence = feature.presence
    if presence.HasField("min_count") and view.count < presence.min_count:
        text = f"has a value in {view.count} rows, and the least is {presence.min_count}"
        yield Reason("FEATURE_TYPE_LOW_NUMBER_PRESENT", text)
    if not presence.HasField("min_fraction") or not view.missing_count:
        return
    share = view.count / row_count if row_count else 1.0
    if share < presence.min_fraction or presence.min_fraction == 1:
        text = f"has a value in {percent(share)} of the rows, and the least is {percent(presence.min_fraction)}"
        yield Reason("FEATURE_TYPE_LOW_FRACTION_PRESENT", text)


def _check_unique(view: FeatureView, limits: Any) -> Iterator[Reason]:
    if not view.has_texts:
        text = "has a limit of different values in the schema, and those of numbers are not counted"
        yield Reason("FEATURE_TYPE_NO_UNIQUE", text)
        return
    number = int(view.message.string_stats.unique)
    if number < limits.min:
        text = f"has {number} different values, and the least is {limits.min}"
        yield Reason("FEATURE_TYPE_LOW_UNIQUE", text)
    if number > limits.max:
        text = f"has {number} different values, and the most is {limits.max}"
        yield Reason("FEATURE_TYPE_HIGH_UNIQUE", text)


def _check_ratio(wanted: Any, row_count: int, other: int, words: str) -> Iterator[Reason]:
    ratio = row_count / other if other else float("inf")
    text = f"has {row_count} rows, {words} {other}"
    if wanted.HasField("max_fraction_threshold") and ratio > wanted.max_fraction_threshold:
        limit = f"at most {wanted.max_fraction_threshold:g} times as many are allowed"
        yield Reason("COMPARATOR_HIGH_NUM_EXAMPLES", f"{text}; {limit}")
    if wanted.HasField("min_fraction_threshold") and ratio < wanted.min_fraction_threshold:
        limit = f"at least {wanted.min_fraction_threshold:g} times as many are wanted"
        yield Reason("COMPARATOR_LOW_NUM_EXAMPLES", f"{text}; {limit}")


def _unchecked(schema: Schema) -> Iterator[str]:
    """Yield what a schema says and what no table can have, or nobody checks."""
    for field, words in (
        ("sparse_feature", "sparse features"),
        ("weighted_feature", "weighted features"),
    ):
        if getattr(schema, field):
            yield f"{words} are not checked: a table has none"
    for feature in schema.feature:
        kind = feature.WhichOneof("domain_info")
        if kind is not None and kind not in CHECKED and not is_retired(feature):
            yield f"the {kind} of {feature.name!r} is not checked"
