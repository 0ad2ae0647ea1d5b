"""`POST /v2/models/<name>/feedback`: bytes in, labels out, and the answer to them. Pure.

    {"labels": [{"id": "frame-17", "label": 3}, {"id": "batch-2", "row": 5, "label": 8}]}

`id` is that of an inference request, `row` which of its rows; it may be absent where there was one. `version`
may name the release that is meant. Of many labels, those that can be are taken; the answer lists the
others. Where none can be, it is an error, whose text begins with the cause.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from wire.codec import parse_json
from wire.errors import PeerError
from wire.performance import MAX_REQUEST_ID_CHARS, MAX_REQUEST_ROWS

from . import oip
from .labels import Cause, Given, Labelling, Refused

MAX_BODY_BYTES: Final = 1024 * 1024
MAX_LABELS: Final = 1_000
"""Of one request: 8 ms of the event loop, which answers nobody meanwhile."""
MAX_SHOWN: Final = 100
"""Of the labels that were refused."""
STATUSES: Final[dict[Cause, int]] = {
    "unknown_id": 404,
    "already_labelled": 409,
    "other_version": 409,
    "wrong_type": 400,
}


class _Label(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(max_length=MAX_REQUEST_ID_CHARS)]
    label: bool | int | float | str
    row: Annotated[int, msgspec.Meta(ge=0, le=MAX_REQUEST_ROWS)] | None = None
    version: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class _Body(msgspec.Struct):
    labels: Annotated[list[_Label], msgspec.Meta(min_length=1, max_length=MAX_LABELS)]


def parse_feedback(body: bytes) -> list[Given]:
    """Return the labels in a body.

    Raises:
        oip.RequestError: 413, or 400 with what is wrong.
    """
    if len(body) > MAX_BODY_BYTES:
        raise oip.RequestError(f"the body is over {MAX_BODY_BYTES} bytes", 413)
    try:
        parsed = msgspec.convert(parse_json(body, max_bytes=MAX_BODY_BYTES), _Body)
    except (PeerError, msgspec.ValidationError) as exc:
        raise oip.RequestError(f"the body is no feedback: {exc}"[:300]) from exc
    return [Given(one.id, one.label, one.row, one.version) for one in parsed.labels]


def take_all(model: str, labelling: Labelling, given: list[Given]) -> tuple[int, bytes]:
    """Count labels; return the status and the body of the answer."""
    refused: list[tuple[Given, Refused]] = []
    for label in given:
        try:
            labelling.take(label)
        except Refused as exc:
            refused.append((label, exc))
    if len(refused) == len(given):
        first = refused[0][1]
        return STATUSES[first.cause], oip.encode_error(_words(first))
    return 200, oip.encode_json(
        {
            "model_name": model,
            "model_version": labelling.version,
            "accepted_count": len(given) - len(refused),
            "refused_count": len(refused),
            "refused": [
                {"id": label.id, "row": label.row or 0, "error": _words(why)}
                for label, why in refused[:MAX_SHOWN]
            ],
        }
    )


def _words(refused: Refused) -> str:
    return f"{refused.cause}: {refused}"
