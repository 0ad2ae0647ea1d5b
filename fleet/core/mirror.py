"""What a registry of others is to have of a model's releases: its versions, their tags, its aliases.

The registry is MLflow's, and its people use it too: a version, a tag or an alias that is not the
mirror's own is left as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

PREFIX: Final = "modelfleet."
"""Of the tags that are the mirror's."""
MANIFEST: Final = f"{PREFIX}manifest"
"""The tag that says which release a version is."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The version of the registry that a bundle says it was made of.

    Attributes:
        model: The model's name there.
        number: Its number there.
        run: Id of the run that logged it, "" where there was none.
    """

    model: str
    number: int
    run: str


@dataclass(frozen=True, slots=True)
class Released:
    """A release of the fleet.

    Attributes:
        version: For people.
        manifest: Its manifest's digest.
        tags: What the registry is to say of it, beside that digest.
        origin: Where it came from, None where that is not the registry.
    """

    version: str
    manifest: str
    tags: Mapping[str, str]
    origin: Origin | None = None

    @property
    def all_tags(self) -> dict[str, str]:
        """What the version of the registry is tagged with."""
        return {**self.tags, MANIFEST: self.manifest}


@dataclass(frozen=True, slots=True)
class Registered:
    """A version in the registry."""

    number: int
    run: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AliasPlan:
    """What becomes of the registry's aliases.

    Attributes:
        moved: Set to these numbers.
        dropped: Set by the mirror before, and no alias of the fleet any more.
        left: Of others, and meaning another version: not touched.
        own: All that are the mirror's when it is done.
    """

    moved: Mapping[str, int]
    dropped: tuple[str, ...]
    left: tuple[str, ...]
    own: frozenset[str]


def find_version(
    release: Released, model: str, versions: Sequence[Registered]
) -> Registered | None:
    """Return the version that is this release, None where one has to be made.

    It is the one that is tagged with the release's manifest; else the one that the bundle was made
    of, which is of this registry if the run that logged it is the same, and is no other release yet.

    Args:
        release: The release.
        model: The model's name in the registry.
        versions: All versions of it there.
    """
    for version in versions:
        if version.tags.get(MANIFEST) == release.manifest:
            return version
    origin = release.origin
    if origin is None or origin.model != model or not origin.run:
        return None
    return next(
        (
            version
            for version in versions
            if (version.number, version.run) == (origin.number, origin.run)
            and MANIFEST not in version.tags
        ),
        None,
    )


def changed_tags(release: Released, tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that have to be set."""
    return {key: value for key, value in release.all_tags.items() if tags.get(key) != value}


def stale_tags(release: Released, tags: Mapping[str, str]) -> list[str]:
    """Return the mirror's tags that say something no longer."""
    return sorted(key for key in tags if key.startswith(PREFIX) and key not in release.all_tags)


def plan_aliases(
    wanted: Mapping[str, int],
    there: Mapping[str, int],
    own: Collection[str],
    *,
    is_taking: bool = False,
) -> AliasPlan:
    """Return what becomes of the aliases.

    Args:
        wanted: The fleet's, with the numbers of their versions.
        there: The registry's.
        own: Those of the registry that the mirror has set.
        is_taking: Whether to move those of others too.
    """
    left = tuple(
        sorted(
            alias
            for alias, number in wanted.items()
            if not is_taking and alias not in own and there.get(alias, number) != number
        )
    )
    kept = {alias: number for alias, number in wanted.items() if alias not in left}
    return AliasPlan(
        moved={alias: number for alias, number in kept.items() if there.get(alias) != number},
        dropped=tuple(sorted(alias for alias in own if alias in there and alias not in wanted)),
        left=left,
        own=frozenset(kept),
    )
