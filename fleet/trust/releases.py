"""Releases as they are signed: what a model's document says of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tuf.api.metadata import TargetFile, Targets

from wire.ids import DIGEST_PATTERN, VERSION_PATTERN
from wire.manifest import MAX_MANIFEST_BYTES
from wire.messages import MAX_INTEGER
from wire.trust import FLOOR_FIELD, MANIFEST_FILE, NUMBER_FIELD, model_role, target_path

from .documents import malformed

FIRST_NUMBER: Final = 1
HASH: Final = "sha256"


@dataclass(frozen=True, slots=True)
class SignedRelease:
    """One release of a model as its document names it.

    Attributes:
        model: The model's name.
        version: Its name for people.
        manifest: Digest of its `manifest.json`.
        bytes: Length of that.
        number: Counts the model's releases in the order in which they were signed.
    """

    model: str
    version: str
    manifest: str
    bytes: int
    number: int


def releases_of(model: str, targets: Targets) -> dict[str, SignedRelease]:
    """Return the releases that a model's document names, by version.

    Raises:
        PeerError: `trust_malformed`.
    """
    role = model_role(model)
    if targets.delegations is not None:
        raise malformed(role, "it delegates further")
    return {r.version: r for r in (_release(model, path, t) for path, t in targets.targets.items())}


def floor_of(targets: Targets) -> int:
    """Return the lowest number of a release that may still run.

    Raises:
        PeerError: `trust_malformed`.
    """
    floor = targets.unrecognized_fields.get(FLOOR_FIELD, FIRST_NUMBER)
    if type(floor) is not int or not FIRST_NUMBER <= floor <= MAX_INTEGER:
        raise malformed("a model", f"its {FLOOR_FIELD} is no number from {FIRST_NUMBER} on")
    return floor


def set_floor(targets: Targets, floor: int) -> None:
    """Write the floor into a draft."""
    targets.unrecognized_fields[FLOOR_FIELD] = floor


def next_number(model: str, targets: Targets) -> int:
    """Return the number that the next release of a model gets."""
    numbers = [release.number for release in releases_of(model, targets).values()]
    return max([*numbers, floor_of(targets) - 1]) + 1


def put_release(targets: Targets, release: SignedRelease) -> None:
    """Write a release into a draft."""
    path = target_path(release.model, release.version)
    targets.targets[path] = TargetFile(
        release.bytes, {HASH: release.manifest}, path, {"custom": {NUMBER_FIELD: release.number}}
    )


def _release(model: str, path: str, target: TargetFile) -> SignedRelease:
    role = model_role(model)
    name, _, rest = path.partition("/")
    version, _, file = rest.rpartition("/")
    if name != model or file != MANIFEST_FILE or not re.fullmatch(VERSION_PATTERN, version):
        raise malformed(role, f"{path[:120]!r} is no release of {model}")
    custom = target.unrecognized_fields.get("custom")
    number = custom.get(NUMBER_FIELD) if isinstance(custom, dict) else None
    if type(number) is not int or not FIRST_NUMBER <= number <= MAX_INTEGER:
        raise malformed(role, f"{path} has no number from {FIRST_NUMBER} on")
    digest = target.hashes.get(HASH)
    if set(target.hashes) != {HASH} or not re.fullmatch(DIGEST_PATTERN, str(digest)):
        raise malformed(role, f"{path} has no {HASH} alone")
    if not 0 < target.length <= MAX_MANIFEST_BYTES:
        raise malformed(role, f"{path} has a length that no manifest has")
    return SignedRelease(model, version, str(digest), target.length, number)
