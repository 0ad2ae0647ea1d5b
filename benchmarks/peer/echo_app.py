"""The floor: a bare ASGI application that reads the request and answers with fixed bytes."""

from __future__ import annotations

import os
from pathlib import Path

ANSWER = Path(os.environ["ECHO_ANSWER"]).read_bytes()
HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(ANSWER)).encode()),
]


async def app(scope, receive, send):  # noqa: ANN001, ANN201 - the ASGI protocol's own names
    """Answer any request."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})
