"""The root of trust that this device begins with: the one that a person named, else that of its enrolment."""

from __future__ import annotations

from pathlib import Path

from agent.config import AgentConfig
from agent.core.root import HeldRoot, digest_of
from wire.errors import ConfigError

from .identity import Identity


def read_bootstrap(config: AgentConfig) -> bytes:
    """Return the root of trust that this device was given: by a person, or at its enrolment.

    Raises:
        ConfigError: `trust_root_missing` or `trust_root_unreadable`.
    """
    if config.trust.root is not None:
        return _read(config.trust.root)
    enrolled = Identity(config.state.dir).root
    if not enrolled.exists():
        raise ConfigError(
            "this device has no root of trust: it could not tell whose models it runs",
            code="trust_root_missing",
            hint="enrol it, or name a copy of the fleet's root.json as [trust] root",
        )
    return _read(enrolled)


def read_named_root(path: Path) -> HeldRoot:
    """Return the root of trust that `[trust] root` names; who wrote that there has vouched for it.

    Raises:
        ConfigError: `trust_root_unreadable`.
    """
    try:
        text = _read(path).decode()
    except UnicodeDecodeError as exc:
        raise _unreadable(path, "it is no text") from exc
    return HeldRoot(digest_of(text), text, f"[trust] root and {path}", is_pinned=True)


def is_root_on_trust(config: AgentConfig) -> bool:
    """Whether nobody but the controller vouches for the root of trust that is in use."""
    if config.trust.root is not None:
        return False
    held = Identity(config.state.dir).held_root()
    return held is not None and held.text != "" and not held.is_pinned


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise _unreadable(path, exc.strerror) from exc


def _unreadable(path: Path, why: str | None) -> ConfigError:
    return ConfigError(
        f"cannot read the root of trust, {path}: {why}",
        code="trust_root_unreadable",
        hint="copy the fleet's root.json there; [trust] root names it",
    )
