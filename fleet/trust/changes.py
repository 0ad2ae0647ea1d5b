"""What a set of new documents changes, in words: for those who sign it, and for the journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tuf.api.metadata import Role

from .documents import ROOT, TARGETS, model_of
from .releases import floor_of, releases_of
from .repository import Repository


def changes(before: Repository | None, after: Repository) -> Iterator[str]:
    """Yield one line for each change, and a last one that says until when the documents are good."""
    if before is None:
        yield f"founded: root version {after.root.version}, models: {', '.join(after.models) or 'none'}"
        return
    new = [d for d in after.documents() if before.newest(d.role) is not d]
    lines = [line for document in new for line in _of_role(document.role, before, after)]
    yield from lines
    if new:
        # Without a word on its content a document is only renewed.
        until = ", ".join(f"{d.role} to {d.signed.expires:%Y-%m-%d}" for d in new)
        yield f"{'good' if lines else 'renewed'}: {until}"


def _of_role(role: str, before: Repository, after: Repository) -> Iterator[str]:
    if role == ROOT:
        old_roles: Mapping[str, Role] = before.root.signed.roles
        roles: Mapping[str, Role] = after.root.signed.roles
    elif role == TARGETS:
        old_roles, roles = before.delegated(), after.delegated()
    else:
        yield from _of_model(model_of(role) or "", before, after)
        return
    for name, new in roles.items():
        if name not in old_roles:
            yield f"new role {name}: key {', '.join(new.keyids)}; {_threshold(new)}"
        else:
            yield from _of_keys(name, before, after)


def _of_keys(name: str, before: Repository, after: Repository) -> Iterator[str]:
    old, new = before.keys(name), after.keys(name)
    lines = []
    for keyid, key in new.items():
        # Whole ids: of a key that is made for it the first digits can be anybody's.
        if keyid not in old:
            lines.append(f"{name}: key {keyid} is added")
        elif key != old[keyid]:
            lines.append(f"{name}: another key is behind the id {keyid}")
    lines += [f"{name}: key {keyid} is taken away" for keyid in old if keyid not in new]
    yield from lines
    if lines or after.role(name).threshold != before.role(name).threshold:
        yield f"{name}: {_threshold(after.role(name))}"


def _threshold(role: Role) -> str:
    return f"{role.threshold} of {len(role.keyids)} must sign"


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
