"""All that people have signed, and what may follow it. Pure: documents in, documents or an error out.

The same rules hold on both ends: the controller takes nothing else in, and a person's command signs
nothing on top of anything else, whatever a stolen controller shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from securesystemslib.signer import Key
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import DelegatedRole, Role, Root, Signed, Targets

from wire.errors import PeerError
from wire.trust import DIRECTOR, DIRECTOR_PATHS, model_paths, model_role

from .documents import (
    OFFLINE_DAYS,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Document,
    expiry,
    malformed,
    mismatch,
    model_of,
)
from .keys import SCHEMES, has_own_id
from .releases import floor_of, releases_of

Verify = Callable[[Root | Targets, Document[Any]], None]
ONLINE_ROLES: Final = (SNAPSHOT, TIMESTAMP, DIRECTOR)
"""Roles whose keys the controller holds."""
CLOCKS_DAYS: Final = 1
"""How far the clock of who drafted may be ahead of that of who signs or of the controller."""


@dataclass(frozen=True, slots=True)
class Repository:
    """The newest document of each role that offline keys sign, verified.

    Attributes:
        root: The newest root.
        targets: Names the keys of models and of the director.
        models: Model to the document that names its releases.
    """

    root: Document[Root]
    targets: Document[Targets]
    models: Mapping[str, Document[Targets]] = field(default_factory=dict)

    def newest(self, role: str) -> Document[Root] | Document[Targets] | None:
        """Return the document of a role, None where there is none."""
        if role == ROOT:
            return self.root
        if role == TARGETS:
            return self.targets
        return self.models.get(model_of(role) or "")

    def documents(self) -> list[Document[Root] | Document[Targets]]:
        """Return all documents, each after the one that names its keys."""
        return [self.root, self.targets, *(self.models[name] for name in sorted(self.models))]

    def role(self, name: str) -> Role:
        """Return keys and threshold of a role.

        Raises:
            PeerError: `unknown_role`.
        """
        delegator = self.root.signed if name in self.root.signed.roles else self.targets.signed
        try:
            return delegator.get_delegated_role(name)
        except ValueError as exc:
            raise PeerError(
                f"there is no role {name[:80]!r}",
                code="unknown_role",
                hint="`fleet keys show` lists them",
            ) from exc

    def keys(self, name: str) -> dict[str, Key]:
        """Return the keys of a role by key id."""
        role = self.role(name)
        delegator = self.root.signed if name in self.root.signed.roles else self.targets.signed
        return {keyid: delegator.get_key(keyid) for keyid in role.keyids}

    def delegated(self) -> dict[str, DelegatedRole]:
        """Return the roles that `targets` names, by name."""
        return delegated_roles(self.targets.signed)


def succeed(
    current: Repository | None,
    handed_in: Iterable[Document[Signed]],
    now_unix_ms: int,
    *,
    check_signatures: bool = True,
    may_skip: bool = False,
) -> Repository:
    """Return what `current` becomes with new documents, or refuse all of them.

    Documents that `current` has already are passed over, so that handing in twice is harmless.

    Args:
        current: What there is; None takes a first set, whose root is believed as it is.
        handed_in: New versions: of the root any number in a row, of other roles one each.
        now_unix_ms: Nothing is taken in that has expired, or is to be good for longer than
            `OFFLINE_DAYS`.
        check_signatures: False for drafts that are not signed yet.
        may_skip: Whether versions may be left out, of other roles than the root: a store that was
            set back gets what was signed since.

    Raises:
        PeerError: `version_conflict`, `trust_signature`, `trust_expired`, `expiry_too_far`,
            `trust_malformed`, `key_id_foreign`, `trust_mismatch` or `trust_rollback`.
    """
    roots, others = _sorted(handed_in)
    verify = _verify if check_signatures else _do_not_verify
    if current is None:
        current = _first(roots, others, verify)
    else:  # older programs did not look behind the ids
        _check_keys(ROOT, current.root.signed.keys)
        _check_keys(TARGETS, _delegated_keys(current.targets.signed))
    root = current.root
    for newer in roots:
        if _is_news(root, newer):
            verify(root.signed, newer)
            _check_root(newer.signed)
            verify(newer.signed, newer)
            _check_fresh(newer, now_unix_ms)
            root = newer
    targets = current.targets
    new = others.pop(TARGETS, None)
    if new is not None and _is_news(targets, new, may_skip=may_skip):
        verify(root.signed, new)
        _check_fresh(new, now_unix_ms)
        _check_targets(targets.signed, new.signed)
        targets = new
    elif root is not current.root:
        verify(root.signed, targets)
    models = dict(current.models)
    for role, document in others.items():
        old = models.get(name := model_of(role) or "")
        if old is None or _is_news(old, document, may_skip=may_skip):
            verify(targets.signed, document)
            _check_fresh(document, now_unix_ms)
            _check_releases(name, old, document)
            models[name] = document
    for name in filter(None, map(model_of, delegated_roles(targets.signed))):
        if name not in models:
            raise mismatch(f"{model_role(name)} is delegated to, and has no document")
        if targets is not current.targets and models[name] is current.models.get(name):
            verify(targets.signed, models[name])
    return replace(current, root=root, targets=targets, models=models)


def follow(root: Document[Root], shown: Iterable[Document[Signed]]) -> Repository:
    """Return the repository that a controller shows, believed from `root` on; expired or not.

    Raises:
        PeerError: `trust_signature`, `trust_malformed`, `key_id_foreign`, `trust_mismatch` or
            `trust_unavailable`.
    """
    _check_root(root.signed)
    roots, others = _sorted(shown)
    for newer in roots:
        if newer.version == root.version:
            if newer.metadata.signed_bytes != root.metadata.signed_bytes:
                raise mismatch(f"the controller has another root version {root.version}")
        elif newer.version > root.version:
            _check_successor(root, newer)
            _check_root(newer.signed)
            _verify(root.signed, newer)
            _verify(newer.signed, newer)
            root = newer
    targets = others.pop(TARGETS, None)
    if targets is None:
        raise PeerError(
            "the controller has no trust metadata",
            code="trust_unavailable",
            hint="`fleet keys restore` hands in all that was ever signed here",
        )
    _check_targets(targets.signed, targets.signed)
    _verify(root.signed, targets)
    models: dict[str, Document[Targets]] = {}
    for role, document in others.items():
        name = model_of(role) or ""
        _verify(targets.signed, document)
        _check_releases(name, None, document)
        models[name] = document
    return Repository(root, targets, models)


def delegated_roles(targets: Targets) -> dict[str, DelegatedRole]:
    """Return the roles that a targets document delegates to, by name."""
    if targets.delegations is None or targets.delegations.roles is None:
        return {}
    return dict(targets.delegations.roles)


def _sorted(
    handed_in: Iterable[Document[Signed]],
) -> tuple[list[Document[Root]], dict[str, Document[Targets]]]:
    roots: list[Document[Root]] = []
    others: dict[str, Document[Targets]] = {}
    for document in handed_in:
        if isinstance(document.signed, Root):
            roots.append(cast("Document[Root]", document))
        elif isinstance(document.signed, Targets) and document.role not in others:
            others[document.role] = cast("Document[Targets]", document)
        else:
            raise mismatch(f"{document.role} is given twice, or is the controller's own to sign")
    return sorted(roots, key=lambda document: document.version), others


def _first(
    roots: list[Document[Root]], others: dict[str, Document[Targets]], verify: Verify
) -> Repository:
    if not roots or TARGETS not in others:
        raise PeerError(
            "the controller has no trust metadata yet, and this is no whole set of it",
            code="trust_unavailable",
            hint="`fleet keys restore` hands in all that was ever signed here",
        )
    root = roots.pop(0)
    _check_root(root.signed)
    verify(root.signed, root)
    for document in roots:
        _check_successor(root, document)
        _check_root(document.signed)
        verify(root.signed, document)
        verify(document.signed, document)
        root = document
    roots.clear()
    targets = others.pop(TARGETS)
    _check_targets(targets.signed, targets.signed)
    verify(root.signed, targets)
    return Repository(root, targets)


def _verify(delegator: Root | Targets, document: Document[Root] | Document[Targets]) -> None:
    try:
        delegator.verify_delegate(
            document.role, document.metadata.signed_bytes, document.metadata.signatures
        )
    except (UnsignedMetadataError, ValueError) as exc:
        raise PeerError(
            f"{document.file_name} is not signed by enough of its role's keys: {exc}"[:300],
            code="trust_signature",
        ) from exc


def _do_not_verify(delegator: Root | Targets, document: Document[Root] | Document[Targets]) -> None:
    pass


def _is_news(
    old: Document[Root] | Document[Targets],
    new: Document[Root] | Document[Targets],
    *,
    may_skip: bool = False,
) -> bool:
    if new.version == old.version and new.metadata.signed_bytes == old.metadata.signed_bytes:
        return False
    if new.role == ROOT and new.version < old.version:
        return False  # a chain may begin before what is known; it is not believed for that
    if not (may_skip and new.role != ROOT and new.version > old.version):
        _check_successor(old, new)
    return True


def _check_successor(
    old: Document[Root] | Document[Targets], new: Document[Root] | Document[Targets]
) -> None:
    if new.version != old.version + 1:
        raise PeerError(
            f"{new.role} version {new.version} cannot follow version {old.version}",
            code="version_conflict",
            hint="somebody else signed in the meantime: run the command again",
        )


def _check_fresh(document: Document[Root] | Document[Targets], now_unix_ms: int) -> None:
    if document.is_expired(now_unix_ms):
        raise PeerError(
            f"{document.file_name} expired on {document.signed.expires:%Y-%m-%d}",
            code="trust_expired",
            hint="is this machine's clock right? else run the command again",
        )
    if document.signed.expires > expiry(now_unix_ms, OFFLINE_DAYS + CLOCKS_DAYS):
        raise PeerError(
            f"{document.file_name} would be good until {document.signed.expires:%Y-%m-%d}, and the"
            f" longest is {OFFLINE_DAYS} days",
            code="expiry_too_far",
            hint="is this machine's clock right? else do not sign it: `fleet` drafts nothing so long",
        )


def _check_root(root: Root) -> None:
    for name, role in root.roles.items():
        if not role.keyids:
            raise malformed(ROOT, f"{name} has no key")
        if gone := set(role.keyids) - root.keys.keys():
            raise malformed(ROOT, f"key {min(gone)[:16]} of {name} is missing")
    _check_keys(ROOT, root.keys)
    if not root.consistent_snapshot:
        raise malformed(ROOT, "its snapshots are not consistent")


def _check_targets(old: Targets, new: Targets) -> None:
    if new.targets:
        raise malformed(TARGETS, "it names files itself")
    roles, keys = delegated_roles(new), _delegated_keys(new)
    if DIRECTOR not in roles:
        raise malformed(TARGETS, f"it does not name the {DIRECTOR}")
    for name, role in roles.items():
        model = model_of(name)
        paths = model_paths(model) if model else DIRECTOR_PATHS
        if model is None and name != DIRECTOR:
            raise malformed(TARGETS, f"it delegates to {name[:80]!r}")
        if tuple(role.paths or ()) != paths or not role.terminating:
            raise malformed(TARGETS, f"{name} may sign other paths than {', '.join(paths)}")
        if not role.keyids:
            raise malformed(TARGETS, f"{name} has no key")
        if gone := set(role.keyids) - keys.keys():
            raise malformed(TARGETS, f"key {min(gone)[:16]} of {name} is missing")
    _check_keys(TARGETS, keys)
    # TUF's clients refuse a snapshot that a role has vanished from.
    if vanished := delegated_roles(old).keys() - roles.keys():
        raise malformed(TARGETS, f"it does not name {', '.join(sorted(vanished))} any more")


def _delegated_keys(targets: Targets) -> Mapping[str, Key]:
    return targets.delegations.keys if targets.delegations else {}


def _check_keys(role: str, keys: Mapping[str, Key]) -> None:
    for keyid, key in keys.items():
        if key.scheme not in SCHEMES:
            raise malformed(role, f"key {keyid[:16]} is of a kind that devices do not know")
        if key.keyid != keyid or not has_own_id(key):
            raise PeerError(
                f"the document of {role} has another key behind the id {keyid[:16]} than the id is of",
                code="key_id_foreign",
                hint="do not sign it: whoever made it can sign in the name of that key's owner",
            )


def _check_releases(name: str, old: Document[Targets] | None, new: Document[Targets]) -> None:
    role = model_role(name)
    found = releases_of(name, new.signed)
    numbers = [release.number for release in found.values()]
    if len(set(numbers)) != len(numbers):
        raise malformed(role, "two releases have one number")
    floor = floor_of(new.signed)
    if old is None:
        return
    if floor < floor_of(old.signed):
        raise PeerError(
            f"the floor of {name} would fall from {floor_of(old.signed)} to {floor}",
            code="trust_rollback",
        )
    before = releases_of(name, old.signed)
    highest = max((release.number for release in before.values()), default=0)
    for version, release in found.items():
        known = before.get(version)
        if known is not None and known != release:
            raise mismatch(f"{name}:{version} was signed with other content or number before")
        if known is None and release.number <= highest:
            raise mismatch(f"{name}:{version} has a number that is not above {highest}")
