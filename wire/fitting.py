"""What is done to a value before it is held against its field."""

from __future__ import annotations

from pydantic import BeforeValidator


def fit(max_bytes: int) -> BeforeValidator:
    """Make a text for people fit: what is not printable becomes a blank, what is over is cut.

    Such a text comes from anywhere, and is never worth the message that it explains. Its length is
    that of its JSON in UTF-8.
    """

    def fitted(value: object) -> object:
        if not isinstance(value, str):
            return value
        text = "".join(c if c.isprintable() else " " for c in value[:max_bytes])
        used = 0
        for position, character in enumerate(text):
            used += len(character.encode()) + (character in '"\\')
            if used > max_bytes:
                return text[:position]
        return text

    return BeforeValidator(fitted)


def refuse_boolean(value: object) -> object:
    """Keep `true` from being the number 1, as it is to Python."""
    if isinstance(value, bool):
        raise ValueError("Input should be 1")  # noqa: TRY004 - pydantic reports only this as a fault
    return value
