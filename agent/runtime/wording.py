"""What onnxruntime says, as a sentence that fits a report: its own places in its own source left out."""

from __future__ import annotations

import re
from typing import Final

MAX_CHARACTERS: Final = 300

_BLANK: Final = (
    re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : "),
    re.compile(r"Load model from \S+ failed: ?"),
    re.compile(r"Exception during initialization: "),
    re.compile(r"Fatal error: "),
    re.compile(r"This is an invalid model\. "),
)
_RUNNING: Final = re.compile(
    r"Non-zero status code returned while running (\S+) node\. Name:'[^']*' Status Message: "
)
_PLACE: Final = re.compile(r"/\S*onnxruntime\S*:\d+ ")


def plain(text: str) -> str:
    """Return the gist of an error of onnxruntime's, at most `MAX_CHARACTERS` long."""
    text = (text.strip().splitlines() or [""])[0]
    for pattern in _BLANK:
        text = pattern.sub("", text)
    text = _RUNNING.sub(r"\1: ", text)
    if (place := _PLACE.search(text)) is not None:
        said = _after_signature(text[place.end() :])
        text = text[: place.start()] + (said or "the file breaks a rule of onnxruntime")
    text = text.replace("std::bad_alloc", "it needs more memory than it may have")
    return text.strip()[:MAX_CHARACTERS]


def _after_signature(text: str) -> str:
    """Return what follows a C++ function's signature, `f(…) const [with …] `."""
    end = _closing(text, text.find("("))
    rest = text[end:].removeprefix(" const").lstrip()
    if rest.startswith("[with "):
        rest = rest[_closing(rest, 0) :]
    return rest.strip()


def _closing(text: str, start: int) -> int:
    """Return the position after the bracket that closes the one at `start`; the end without one."""
    depth = 0
    for position in range(max(0, start), len(text)):
        depth += (text[position] in "([") - (text[position] in ")]")
        if depth == 0:
            return position + 1
    return len(text)
