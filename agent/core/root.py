"""Which root of trust a device goes on with when a controller answers its enrolment.

The controller is online and may be in a thief's hands; whoever chooses the root chooses which releases run.
So an answer only brings the text of a root that somebody else has vouched for: the operator by the digest
in the join token, a person by the file that the configuration names, or the device's own past.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from wire.errors import PeerError


@dataclass(frozen=True, slots=True)
class HeldRoot:
    """A root of trust that the device has, or had: its digest may outlive its text.

    Attributes:
        digest: sha-256 of its file.
        text: The file; empty where it is lost.
        place: Where, and what to delete to have another, in words.
        is_pinned: Whether somebody vouched for it other than a controller.
    """

    digest: str
    text: str
    place: str
    is_pinned: bool = False


@dataclass(frozen=True, slots=True)
class ChosenRoot:
    """What to go on with; `text` is empty where there is none."""

    text: str
    is_pinned: bool

    @property
    def digest(self) -> str:
        """The sha-256 of its file; empty where there is none."""
        return digest_of(self.text)


def choose_root(answered: str, *, pin: str, held: HeldRoot | None) -> ChosenRoot:
    """Return which root counts after an enrolment.

    Args:
        answered: The one that the controller gave; empty where it gave none.
        pin: Digest in the join token; empty where it has none.
        held: What the device has already.

    Raises:
        PeerError: `wrong_root`: somebody has vouched for another one.
    """
    given = digest_of(answered)
    if held is None:
        if pin and given != pin:
            raise _refused(
                f"the controller gave {_named(given)}, and the join token is for {_named(pin)}",
                "compare the root.json that the token was made beside with the controller's: if both"
                " should be of this fleet, the controller may be in foreign hands",
            )
        return ChosenRoot(answered, is_pinned=bool(pin))
    check_pin(pin, held)
    if given not in ("", held.digest) or not (held.text or answered):
        raise _refused(
            f"the controller gave {_named(given)}, and this device holds {_named(held.digest)}",
            f"unless the fleet was founded anew, the controller may be in foreign hands;"
            f" {_change(held)}",
        )
    return ChosenRoot(held.text or answered, held.is_pinned or pin == held.digest)


def check_pin(pin: str, held: HeldRoot | None) -> None:
    """Refuse a join token that is for another root than the device holds; it need not be spent for that.

    Raises:
        PeerError: `wrong_root`.
    """
    if held is not None and pin not in ("", held.digest):
        raise _refused(
            f"the join token is for {_named(pin)}, and this device holds {_named(held.digest)}",
            _change(held),
        )


def digest_of(text: str) -> str:
    """Return the sha-256 of a file with this text; nothing of no text."""
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def _named(digest: str) -> str:
    return f"the root of trust {digest[:12]}" if digest else "no root of trust"


def _change(held: HeldRoot) -> str:
    return f"to have this device change fleets, delete {held.place}, and enrol it by a new token"


def _refused(words: str, hint: str) -> PeerError:
    return PeerError(words, code="wrong_root", hint=hint)
