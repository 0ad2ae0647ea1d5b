"""What happens in the fleet, as the controller streams it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from pydantic import ValidationError

from fleet.api.schemas import WatchEvent
from wire.errors import TransferError

from .client import Client

RETRY_S: Final = 2.0


def stream(
    client: Client, *, told: Callable[[str], object], recovered: Callable[[], object]
) -> Iterator[WatchEvent]:
    """Yield events from now on, without end.

    Args:
        client: Of the controller.
        told: Gets why there are none for a while.
        recovered: Called when there may be events again: at the first line, which need be none.

    Raises:
        TransferError: The controller could not be reached from the beginning.
        PeerError: It refused.
    """
    since: int | None = None
    is_connected = has_failed = False
    while True:
        try:
            query = {} if since is None else {"since": since}
            for line in client.stream("/v1/watch", **query):
                is_connected = True
                if has_failed:
                    has_failed = False
                    recovered()
                event = _parse(line)
                if event is not None:
                    since = event.id
                    yield event
        except TransferError as exc:
            if not is_connected:
                raise
            has_failed = True
            told(str(exc))
        time.sleep(RETRY_S)


def _parse(line: str) -> WatchEvent | None:
    if not line.startswith("data:"):
        return None
    try:
        return WatchEvent.model_validate_json(line.removeprefix("data:").strip())
    except ValidationError:
        return None  # a newer controller may know more kinds
