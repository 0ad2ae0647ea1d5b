"""What a set of new documents changes, in words: for those who sign it, and for the journal."""

from __future__ import annotations

from collections.abc import Iterator

from tuf.api.metadata import Role

from .documents import ROOT, TARGETS, model_of
from .releases import floor_of, releases_of
from .repository import Repository, delegated_roles


def changes(before: Repository | None, after: Repository) -> Iterator[str]:
    """Yield one line for each change, and one for each document that is only renewed."""
    if before is None:
        yield f"founded: root version {after.root.version}, models: {', '.join(after.models) or 'none'}"
        return
    renewed = []
    for document in after.documents():
        if before.newest(document.role) is document:
            continue
        lines = list(_of_role(document.role, before, after))
        yield from lines
        if not lines:
            renewed.append(f"{document.role} to {document.signed.expires:%Y-%m-%d}")
    # A renewal beside a change is part of it: targets, say, when its key is replaced in the root.
    if renewed and len(renewed) == sum(before.newest(d.role) is not d for d in after.documents()):
        yield f"renewed: {', '.join(renewed)}"


def _of_role(role: str, before: Repository, after: Repository) -> Iterator[str]:
    if role == ROOT:
        for name, new in after.root.signed.roles.items():
            yield from _of_keys(name, before.root.signed.roles.get(name), new)
    elif role == TARGETS:
        old_roles = delegated_roles(before.targets.signed)
        for name, delegated in delegated_roles(after.targets.signed).items():
            yield from _of_keys(name, old_roles.get(name), delegated)
    elif (model := model_of(role)) is not None:
        yield from _of_model(model, before, after)


def _of_keys(name: str, old: Role | None, new: Role) -> Iterator[str]:
    if old is None:
        yield f"new role {name}: key {', '.join(k[:8] for k in new.keyids)}"
        return
    for keyid in new.keyids:
        if keyid not in old.keyids:
            yield f"{name}: key {keyid[:8]} is added"
    for keyid in old.keyids:
        if keyid not in new.keyids:
            yield f"{name}: key {keyid[:8]} is taken away"
    if new.threshold != old.threshold:
        yield f"{name}: {new.threshold} of {len(new.keyids)} must sign"


def _of_model(model: str, before: Repository, after: Repository) -> Iterator[str]:
    old, new = before.models.get(model), after.models[model]
    known = releases_of(model, old.signed) if old else {}
    found = releases_of(model, new.signed)
    for version, release in found.items():
        if version not in known:
            yield f"release {model}:{version}, number {release.number}, {release.manifest[:12]}"
    for version in known:
        if version not in found:
            yield f"{model}:{version} is retired"
    floor = floor_of(new.signed)
    if floor != (floor_of(old.signed) if old else 1):
        dead = ", ".join(v for v, r in found.items() if r.number < floor) or "none that is listed"
        yield f"floor of {model} is number {floor}; dead: {dead}"
