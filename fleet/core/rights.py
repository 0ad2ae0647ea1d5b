"""Who may do what, and to which devices: roles, rights and scopes.

A role's rights include those of the role before it: who may start something may also stop it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Right(StrEnum):
    """What a route asks for."""

    SEE = "see"
    STEER = "steer"
    """Pause, resume, abort, roll back; tags, quarantines, alerts and silences."""
    RELEASE = "release"
    """Push, sign, start and approve rollouts."""
    ADMINISTER = "administer"
    """Devices, tokens, keys, and the audit log."""


class Role(StrEnum):
    """What a token is given for."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    RELEASER = "releaser"
    ADMIN = "admin"


RIGHTS: Final[Mapping[Role, frozenset[Right]]] = MappingProxyType(
    {
        Role.VIEWER: frozenset({Right.SEE}),
        Role.OPERATOR: frozenset({Right.SEE, Right.STEER}),
        Role.RELEASER: frozenset({Right.SEE, Right.STEER, Right.RELEASE}),
        Role.ADMIN: frozenset(Right),
    }
)

Scope = Mapping[str, str]
"""Tags that a device must carry to be seen and touched; an empty one is the whole fleet."""
WHOLE_FLEET: Final[Scope] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose token a request bears.

    Attributes:
        name: The token's name, which the audit log shows.
        role: What it may do.
        scope: Which devices it may do it to.
    """

    name: str
    role: Role
    scope: Scope = field(default_factory=dict)

    def may(self, right: Right) -> bool:
        """Whether the role has a right."""
        return right in RIGHTS[self.role]


def is_within(tags: Scope, scope: Scope) -> bool:
    """Whether tags are at least as narrow as a scope.

    True of a device means that it is in the scope; of the tags that a rollout matches, that no
    device outside can be; of another scope, that it gives no more.
    """
    return all(tags.get(key) == value for key, value in scope.items())
