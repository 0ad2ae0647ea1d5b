"""How a claim says that it does not hold."""

from __future__ import annotations


class Disproved(Exception):  # noqa: N818  # a verdict on a claim, not an error of the program
    """The evidence contradicts the claim; the message says where."""


def require(condition: object, contradiction: str) -> None:
    """Raise unless `condition` holds.

    Raises:
        Disproved: With `contradiction`.
    """
    if not condition:
        raise Disproved(contradiction)
