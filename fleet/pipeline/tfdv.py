"""TFDV's files: `schema.pbtxt` is inferred, read and written; anomalies become its message."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2
from tensorflow_metadata.proto.v0.anomalies_pb2 import Anomalies
from tensorflow_metadata.proto.v0.schema_pb2 import Schema
from tensorflow_metadata.proto.v0.statistics_pb2 import DatasetFeatureStatisticsList as Statistics

from wire.errors import ConfigError

from .anomalies import Anomaly, Severity, Validation, Verdict
from .domains import is_int
from .reason import SCHEMA_TYPES, FeatureView, name_of
from .textproto import Kept, encode, parse, read_text

MAX_SCHEMA_BYTES: Final = 4 * 1024 * 1024
MAX_STATISTICS_BYTES: Final = 64 * 1024 * 1024
MAX_DOMAIN_SIZE: Final = 100
"""Different texts up to which they are a vocabulary: TFDV's default."""
TRAINING: Final = "TRAINING"
SERVING: Final = "SERVING"
TRUE_TEXTS: Final = ("TRUE", "true", "SET", "set", "1")
FALSE_TEXTS: Final = ("FALSE", "false", "CLEAR", "clear", "0")
REASONS: Final = frozenset(anomalies_pb2.AnomalyInfo.Type.keys())
"""All codes that TFDV has for an anomaly."""
MULTIPLE: Final = "Multiple errors"


@dataclass(frozen=True, slots=True)
class SchemaFile:
    """What a `schema.pbtxt` holds.

    Attributes:
        schema: What is known of it here.
        kept: What a newer one says, and is written again.
    """

    schema: Schema = field(default_factory=Schema)
    kept: tuple[Kept, ...] = ()


def read_schema(path: Path) -> SchemaFile:
    """Return the schema in a text file.

    Raises:
        ConfigError: `text_unreadable`, `text_invalid` or `schema_invalid`, with the line if there is one.
    """
    text = read_text(path, max_bytes=MAX_SCHEMA_BYTES)
    schema, kept = parse(text, Schema(), shown=str(path))
    _check_names(path, "feature", (feature.name for feature in schema.feature))
    _check_names(path, "string_domain", (domain.name for domain in schema.string_domain))
    return SchemaFile(schema, kept)


def encode_schema(file: SchemaFile | Schema) -> str:
    """Return the text of a schema, equal for equal schemas."""
    given = file if isinstance(file, SchemaFile) else SchemaFile(file)
    return encode(given.schema, given.kept)


def read_statistics(path: Path) -> Statistics:
    """Return the statistics in a text file.

    Raises:
        ConfigError: `text_unreadable` or `text_invalid`, with the line.
    """
    text = read_text(path, max_bytes=MAX_STATISTICS_BYTES)
    return parse(text, Statistics(), shown=str(path))[0]


def infer_schema(statistics: Statistics, *, max_domain_size: int = MAX_DOMAIN_SIZE) -> Schema:
    """Return the schema that all of the data meets, as TFDV's `infer_schema` does.

    Types; presence and shape; booleans, whole numbers and small vocabularies in text. No ranges:
    these are for people to say.

    Args:
        statistics: Of one data set.
        max_domain_size: Different texts up to which they are a vocabulary.
    """
    schema = Schema()
    extend_schema(schema, statistics, max_domain_size=max_domain_size)
    return schema


def extend_schema(
    schema: Schema, statistics: Statistics, *, max_domain_size: int = MAX_DOMAIN_SIZE
) -> tuple[str, ...]:
    """Add the features that a schema lacks, and leave the others as they are; return their names."""
    known = {feature.name for feature in schema.feature}
    added = []
    for message in statistics.datasets[0].features if statistics.datasets else ():
        name = name_of(message)
        if name in known:
            continue
        view = FeatureView(message)
        feature = schema.feature.add(name=name, type=SCHEMA_TYPES[view.type])
        _infer_presence(feature, view)
        _infer_domain(schema, feature, view, max_domain_size)
        added.append(name)
    return tuple(added)


def leave_out_in_serving(schema: Schema, names: Collection[str]) -> None:
    """Give a schema TFDV's usual environments, TRAINING and SERVING, with `names` not in the latter.

    Args:
        schema: Is changed; what people said of a feature's environments stays.
        names: The label, and columns that the model is not fed.
    """
    for environment in (TRAINING, SERVING):
        if environment not in schema.default_environment:
            schema.default_environment.append(environment)
    for feature in schema.feature:
        is_free = not feature.in_environment and not feature.not_in_environment
        if feature.name in names and is_free:
            feature.not_in_environment.append(SERVING)


def anomalies_message(validation: Validation, schema: Schema) -> Anomalies:
    """Return what was found as TFDV's message, one entry a feature with all of its reasons."""
    result = Anomalies()
    result.baseline.CopyFrom(schema)
    if validation.verdict is Verdict.NO_DATA:
        result.data_missing = True
        return result
    result.anomaly_name_format = anomalies_pb2.Anomalies.SERIALIZED_PATH
    by_feature: dict[str, list[Anomaly]] = {}
    for anomaly in validation.anomalies:
        by_feature.setdefault(anomaly.feature, []).append(anomaly)
    for name, anomalies in by_feature.items():
        info = result.anomaly_info[serialised(name)] if name else result.dataset_anomaly_info
        if name:
            info.path.step.append(name)
        _fill(info, anomalies)
    kinds = anomalies_pb2.DriftSkewInfo.Measurement
    infos: dict[str, Any] = {}
    for measured in validation.measurements:
        if measured.feature not in infos:
            infos[measured.feature] = result.drift_skew_info.add()
            infos[measured.feature].path.step.append(measured.feature)
        getattr(infos[measured.feature], f"{measured.comparator}_measurements").add(
            type=kinds.Type.Value(measured.kind), value=measured.value, threshold=measured.threshold
        )
    return result


def serialised(name: str) -> str:
    """Return a feature's name as a path of TFDV: in quotes where it holds a dot, quote or bracket."""
    is_plain = re.fullmatch(r"\([^()]*\)|[^().']+", name, re.DOTALL)
    return name if is_plain else "'" + name.replace("'", "''") + "'"


def _fill(info: Any, anomalies: list[Anomaly]) -> None:
    for anomaly in anomalies:
        info.reason.add(
            type=anomalies_pb2.AnomalyInfo.Type.Value(anomaly.reason),
            short_description=_short(anomaly.reason),
            description=anomaly.sentence,
        )
    is_error = any(anomaly.severity is Severity.ERROR for anomaly in anomalies)
    info.severity = anomalies_pb2.AnomalyInfo.Severity.Value("ERROR" if is_error else "WARNING")
    info.description = ". ".join(anomaly.sentence for anomaly in anomalies)
    info.short_description = _short(anomalies[0].reason) if len(anomalies) == 1 else MULTIPLE


def _short(code: str) -> str:
    return code.replace("_", " ").capitalize()


def _infer_presence(feature: Any, view: FeatureView) -> None:
    feature.presence.min_count = 1 if view.count else 0
    if not view.count:
        return
    low, high = int(view.common.min_num_values), int(view.common.max_num_values)
    if not view.missing_count:
        feature.presence.min_fraction = 1.0
    if not view.missing_count and low == high > 0:
        # A list of one value has TFDV's shape of a single dimension.
        feature.shape.dim.add(size=low)
    elif low > 0:
        feature.value_count.min = low if low == high else 1
        if low == high:
            feature.value_count.max = high


def _infer_domain(schema: Schema, feature: Any, view: FeatureView, max_domain_size: int) -> None:
    kinds = statistics_pb2.FeatureNameStatistics
    if view.type == kinds.INT:
        if view.has_numbers and view.numbers.min >= 0 and view.numbers.max == 1:
            feature.bool_domain.SetInParent()
        return
    texts = sorted(view.counts)
    if view.type != kinds.STRING or not texts or view.message.string_stats.invalid_utf8_count:
        return
    true = [text for text in texts if text in TRUE_TEXTS]
    false = [text for text in texts if text in FALSE_TEXTS]
    if len(texts) == len(true) + len(false) and max(len(true), len(false)) == 1:
        feature.bool_domain.SetInParent()
        if true:
            feature.bool_domain.true_value = true[0]
        if false:
            feature.bool_domain.false_value = false[0]
    elif all(map(is_int, texts)):
        feature.int_domain.SetInParent()
    elif len(texts) <= max_domain_size:
        taken = {domain.name for domain in schema.string_domain}
        wanted = name = serialised(feature.name)
        number = 1
        while name in taken:
            number += 1
            name = f"{wanted}{number}"
        schema.string_domain.add(name=name, value=texts)
        feature.domain = name


def _check_names(path: Path, what: str, names: Iterable[str]) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise ConfigError(
                f"{path}: {what} {name[:128]!r} is there twice",
                code="schema_invalid",
                hint="take one of them out",
            )
        seen.add(name)
