"""What signatures allow: which releases may be installed, which desired states may be acted on.

Pure. The metadata is verified by python-tuf before it comes here as a `TrustView`; whether it is
*fresh* is decided here, by a clock that never goes back. An expired view allows nothing new, and
takes nothing away: what serves goes on serving.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from wire.errors import PeerError
from wire.lifecycle import Code
from wire.messages import Desired
from wire.trust import model_role

TOP_LEVEL: Final = ("root", "timestamp", "snapshot", "targets")
ISSUED: Final = "issued"
"""The mark of the newest time in a desired state whose signature was good; in milliseconds."""


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """A verified document of one role.

    Attributes:
        version: Of the document.
        expires_unix_ms: When it allows nothing new any more.
    """

    version: int
    expires_unix_ms: int


@dataclass(frozen=True, slots=True)
class SignedRelease:
    """A release that a model's keys have signed.

    Attributes:
        manifest: Digest of its `manifest.json`, which binds all of it.
        length: Bytes of that.
        number: Counts the model's releases as they were signed.
    """

    manifest: str
    length: int
    number: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The verified document of the role that signs a model's releases.

    Attributes:
        role: Its version and expiry.
        floor: Releases with a lower number are dead; the highest that this device ever verified.
        releases: By version.
    """

    role: RoleFacts
    floor: int
    releases: Mapping[str, SignedRelease]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a document is not trusted: a code of its own per attack, and words."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class TrustView:
    """Everything that is verified, at one instant; fresh or not.

    Attributes:
        roles: The top-level roles by name.
        models: Verified documents by model; those that were asked for and are sound.
        faults: Why the others are not.
        directors: Public keys that sign desired states for this device: key id to 64 hex digits.
    """

    roles: Mapping[str, RoleFacts]
    models: Mapping[str, ModelFacts] = field(default_factory=dict)
    faults: Mapping[str, Fault] = field(default_factory=dict)
    directors: Mapping[str, str] = field(default_factory=dict)

    @property
    def snapshot(self) -> int:
        """Version of the snapshot, by which a director says how much it knew."""
        return self.roles["snapshot"].version

    @property
    def versions(self) -> dict[str, int]:
        """Version of each verified document, by its role."""
        models = {model_role(model): facts.role for model, facts in self.models.items()}
        return {role: facts.version for role, facts in {**self.roles, **models}.items()}

    def expired(self, now_unix_ms: int) -> str | None:
        """Return the name of a top-level role that has expired, the least lasting first."""
        names = ("timestamp", "snapshot", "targets", "root")
        return next((n for n in names if self.roles[n].expires_unix_ms <= now_unix_ms), None)


@dataclass(frozen=True, slots=True)
class Mark:
    """The highest version of something that was ever accepted, and by whose signatures.

    Attributes:
        version: Of a document, or a model's floor.
        keyids: Keys whose signatures were good on the document that said so.
    """

    version: int
    keyids: frozenset[str] = frozenset()

    def holds(self, keyids: Iterable[str], threshold: int) -> bool:
        """Return whether what was accepted then would still be accepted.

        TUF's workflow (5.3.11) drops what a new root's keys do not verify; so does a mark lose its
        meaning, which is how a fleet recovers from versions that a thief has driven up.
        """
        return len(self.keyids.intersection(keyids)) >= threshold


Marks = Mapping[str, Mark]
"""What must survive the loss of all cached metadata; `agent.adapters.trust` names what they are of."""


MAX_LEAD_MS: Final = 86_400_000
"""How far the newest signed time may be ahead of a clock that was ever set: a small part of a
timestamp's life. What is further ahead was signed by a controller whose own clock was wrong, and
must not age all metadata until that day has come."""


def floor_clock(
    clock_unix_ms: int, build_unix_ms: int, view: TrustView | None, marks: Marks
) -> int:
    """Return the time to judge by, for devices whose clock may be at its beginning.

    Args:
        clock_unix_ms: What the machine says.
        build_unix_ms: When this program was made; no signature of today is older.
        view: What is verified; a director that it does not name any more is not believed either.
        marks: With the newest verified time, if there was one.
    """
    issued = marks.get(ISSUED)
    latest = max(clock_unix_ms, build_unix_ms)
    if issued is None or not (view is None or issued.holds(view.directors, 1)):
        return latest
    was_set = clock_unix_ms >= build_unix_ms
    if was_set and issued.version > clock_unix_ms + MAX_LEAD_MS:
        return latest
    return max(latest, issued.version)


def is_director_gone(view: TrustView, marks: Marks) -> bool:
    """Return whether the key that signed what was acted on last is trusted no more.

    The generation counts then from the beginning, as a mark loses its meaning: a thief of that key can
    have driven it up to the last number that there is. What that key signed is refused by its signature.
    """
    issued = marks.get(ISSUED)
    return issued is not None and not issued.holds(view.directors, 1)


def after_desired(marks: Marks, view: TrustView, desired: Desired, keyid: str) -> Marks:
    """Return the marks after a desired state whose signature is good.

    Its time is believed no further than the timestamp lasts: with the next one, a director whose
    clock was wrong by years is forgotten, too.
    """
    known = marks.get(ISSUED, Mark(0))
    issued = min(desired.issued_unix_ms, view.roles["timestamp"].expires_unix_ms)
    if issued <= known.version and known.holds(view.directors, 1):
        return marks
    return {**marks, ISSUED: Mark(issued, frozenset({keyid}))}


@dataclass(frozen=True, slots=True)
class Allowed:
    """It may be done."""


@dataclass(frozen=True, slots=True)
class Waits:
    """It may not be done yet; newer metadata, or a set clock, may change that."""

    fault: Fault


@dataclass(frozen=True, slots=True)
class Refused:
    """It may never be done."""

    fault: Fault


Verdict = Allowed | Waits | Refused


def authorise(
    view: TrustView | None, *, model: str, version: str, manifest: str, now_unix_ms: int
) -> Verdict:
    """Return whether a release may be installed.

    Args:
        view: What is verified; None before anything was.
        model: The model's name.
        version: The release's.
        manifest: Digest of its manifest.
        now_unix_ms: By the floor clock.
    """
    if view is None:
        return Waits(Fault(Code.TRUST_UNAVAILABLE, "no signed metadata has arrived yet"))
    if (role := view.expired(now_unix_ms)) is not None:
        return Waits(Fault(Code.TRUST_EXPIRED, f"the {role} metadata has expired"))
    facts = view.models.get(model)
    if facts is None:
        missing = Fault(Code.TRUST_UNAVAILABLE, f"the metadata of model {model} has not arrived")
        fault = view.faults.get(model, missing)
        return Refused(fault) if fault.code == Code.NOT_SIGNED else Waits(fault)
    if facts.role.expires_unix_ms <= now_unix_ms:
        return Waits(Fault(Code.TRUST_EXPIRED, f"the metadata of model {model} has expired"))
    release = facts.releases.get(version)
    if release is None:
        return Refused(
            Fault(Code.NOT_SIGNED, f"{model}:{version} is not among the signed releases")
        )
    if release.manifest != manifest:
        return Refused(
            Fault(Code.TRUST_MISMATCH, f"{model}:{version} was signed with another manifest")
        )
    if release.number < facts.floor:
        return Refused(
            Fault(
                Code.BELOW_FLOOR,
                f"{model}:{version} is release {release.number}, the floor is {facts.floor}",
            )
        )
    return Allowed()


def judge_desired(
    view: TrustView, desired: Desired, *, device: str, generation: int, now_unix_ms: int
) -> Verdict:
    """Return whether a desired state whose signature is good may be acted on.

    The one that was acted on last is allowed again: a broker repeats what it retains.

    Args:
        view: What is verified.
        desired: The desired state.
        device: The id of this device.
        generation: Of the desired state that was acted on last.
        now_unix_ms: By the floor clock.
    """
    if desired.device != device:
        return Refused(
            Fault(Code.WRONG_DEVICE, f"the desired state is for device {desired.device}")
        )
    if desired.generation < generation:
        return Refused(
            Fault(
                Code.DESIRED_REPLAYED,
                f"generation {desired.generation} comes after generation {generation}",
            )
        )
    if desired.generation == generation:
        return Allowed()
    if desired.expires_unix_ms is not None and desired.expires_unix_ms <= now_unix_ms:
        return Refused(Fault(Code.DESIRED_EXPIRED, "the desired state has expired"))
    if desired.snapshot > view.snapshot:
        return Waits(
            Fault(
                Code.TRUST_UNAVAILABLE,
                f"its director knew snapshot {desired.snapshot}, here is {view.snapshot}",
            )
        )
    return Allowed()


def refused(fault: Fault) -> PeerError:
    """Return the error of a refusal."""
    return PeerError(fault.detail, code=fault.code)
