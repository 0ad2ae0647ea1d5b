"""What the features of a request may hold: `schema.json`, a file of the bundle that an older one lacks."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from .messages import Message, Part

MAX_FEATURES: Final = 65_536
"""As the names of one tensor in a manifest."""

MAX_CATEGORY_CHARS: Final = 256

Action = Literal["reject", "flag", "pass"]
"""`reject` refuses the request, `flag` counts the value and answers, `pass` does neither."""
Reason = Literal["range", "category", "missing", "infinite"]
FeatureName = Annotated[str, Field(min_length=1, max_length=128)]


class FeatureCheck(Part):
    """What one feature may hold, and what becomes of another value.

    `low` and `high` belong to the range, null is no limit; without `categories` every one is known.
    `missing` is of NaN, `infinite` of both infinities; null is what the manifest's `nan_policy` says.
    """

    name: FeatureName
    low: float | None = None
    high: float | None = None
    range: Action = "flag"
    categories: Annotated[
        tuple[Annotated[str, Field(max_length=MAX_CATEGORY_CHARS)], ...], Field(max_length=256)
    ] = ()
    category: Action = "flag"
    missing: Action | None = None
    infinite: Action | None = None


class Schema(Message):
    """The checks of features by their names in the baseline; a feature without one has no limits."""

    features: Annotated[tuple[FeatureCheck, ...], Field(max_length=MAX_FEATURES)] = ()

    @model_validator(mode="after")
    def _is_unambiguous(self) -> Self:
        if len({check.name for check in self.features}) != len(self.features):
            raise ValueError("a feature is named twice")
        for check in self.features:
            if check.low is not None and check.high is not None and check.low > check.high:
                raise ValueError(f"the range of {check.name!r} is empty")
        return self
