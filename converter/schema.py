"""The schema: what the features of a request may hold, by the reference rows and by the author."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from wire.codec import decode
from wire.errors import PeerError
from wire.histogram import Baseline, CategoryColumn, Column
from wire.schema import MAX_CATEGORY_CHARS, FeatureCheck, Schema

MAX_SCHEMA_BYTES: Final = 4 * 1024 * 1024
"""As devices read it."""
LIMITS: Final = frozenset({"low", "high", "range", "categories", "category"})
"""The fields of a check that reference rows say something of."""


def read_schema(path: Path) -> Schema:
    """Return the checks that an author wants.

    Raises:
        PeerError: `request_invalid`.
    """
    try:
        return decode(Schema, path.read_bytes(), max_bytes=MAX_SCHEMA_BYTES)
    except OSError as exc:
        fault = f"cannot read {path}: {exc.strerror or exc}"
        raise PeerError(f"--schema: {fault}", code="request_invalid") from exc
    except PeerError as exc:
        raise PeerError(f"--schema: {path}: {exc}", code="request_invalid") from exc


def make_schema(baseline: Baseline, given: Schema | None) -> Schema:
    """Return the checks of a model's features: the author's, else those that its reference rows pass.

    What is inferred only flags, so that nothing is refused that was answered before. It stays beside
    an author's check that is about missing or infinite values alone.

    Raises:
        PeerError: `request_invalid`, naming a feature that the model does not have.
    """
    names = Counter(column.name for column in baseline.inputs)
    checks = {
        column.name: check
        for column in baseline.inputs
        if names[column.name] == 1 and (check := _inferred(column)) is not None
    }
    for check in given.features if given is not None else ():
        if names[check.name] != 1:
            what = "is the name of several" if names[check.name] else "is no feature of the model"
            raise PeerError(
                f"--schema: {check.name!r} {what}",
                code="request_invalid",
                hint='leave it out; in a schema.pbtxt by default_environment: "SERVING", and'
                ' not_in_environment: "SERVING" in the feature',
            )
        checks[check.name] = _beside(checks.get(check.name), check)
    return Schema(v=1, features=tuple(checks.values()))


def _beside(inferred: FeatureCheck | None, check: FeatureCheck) -> FeatureCheck:
    if inferred is None or check.model_fields_set & LIMITS:
        return check
    return inferred.model_copy(update={n: getattr(check, n) for n in check.model_fields_set})


def encode(schema: Schema) -> bytes:
    """Return the file's bytes; what nobody said is left out."""
    return schema.model_dump_json(exclude_unset=True).encode()


def _inferred(column: Column | CategoryColumn) -> FeatureCheck | None:
    """Return a check that all reference rows pass, None where there is nothing to check."""
    if isinstance(column, Column):
        if column.low is None:
            return None
        return FeatureCheck(name=column.name, low=column.low, high=column.high)
    is_whole = column.other == 0 and max(map(len, column.categories), default=0) > 0
    if not is_whole or max(map(len, column.categories)) > MAX_CATEGORY_CHARS:
        return None
    return FeatureCheck(name=column.name, categories=column.categories)
