"""What queries have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import Query
from pydantic import TypeAdapter, ValidationError

from wire.errors import PeerError

from . import schemas as s

Match = Annotated[
    list[str] | None,
    Query(max_length=s.MAX_TAGS, description="KEY=VALUE; repeated, all must be carried"),
]
_TAGS: TypeAdapter[s.Tags] = TypeAdapter(s.Tags)


def parse_match(given: list[str] | None) -> Mapping[str, str]:
    """Return the tags that a query wants.

    Raises:
        PeerError: `invalid_match`.
    """
    pairs: dict[str, str] = {}
    for text in given or ():
        key, separator, value = text.partition("=")
        if not separator or pairs.get(key, value) != value:
            raise PeerError(
                f"match {text[:100]!r} cannot be used",
                code="invalid_match",
                hint="write it as KEY=VALUE, each key once",
            )
        pairs[key] = value
    try:
        return _TAGS.validate_python(pairs)
    except ValidationError as exc:
        raise PeerError(
            "match has a key or value that no device can carry",
            code="invalid_match",
            hint="write it as KEY=VALUE, for example site=lab",
        ) from exc
