"""New versions of documents, before and while they are signed."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    Role,
    Root,
    Signed,
    Targets,
)

from wire.errors import PeerError
from wire.manifest import digest_of
from wire.trust import DIRECTOR, DIRECTOR_PATHS, model_paths, model_role, target_path

from .documents import (
    OFFLINE_DAYS,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Document,
    expiry,
    freeze,
    model_of,
)
from .releases import SignedRelease, next_number, put_release, releases_of, set_floor
from .repository import Repository, delegated_roles, succeed


@dataclass(frozen=True, slots=True)
class Need:
    """Signatures that a document needs, all of them from the keys of one role."""

    role: str
    keyids: frozenset[str]
    threshold: int


class Draft:
    """What one command changes. Each touched document gets the next version and a fresh expiry."""

    def __init__(self, base: Repository, now_unix_ms: int) -> None:
        self.base = base
        self._now_unix_ms = now_unix_ms
        self._changed: dict[str, Metadata[Root] | Metadata[Targets]] = {}

    @classmethod
    def of(cls, base: Repository, documents: Iterable[Document[Signed]], now_unix_ms: int) -> Draft:
        """Return a draft that somebody else made, checked as far as it can be without signatures.

        Raises:
            PeerError: As `repository.succeed`.
        """
        draft = cls(base, now_unix_ms)
        found = list(documents)
        after = succeed(base, found, now_unix_ms, check_signatures=False)
        for document in after.documents():
            if base.newest(document.role) is not document:
                draft._changed[document.role] = copy.deepcopy(document.metadata)
        draft._drop_strange_signatures()
        return draft

    # -- what can be changed

    def renew(self, role: str) -> None:
        """Give a document a fresh expiry, and nothing else."""
        self._touch(role)

    def add_model(self, model: str, keys: Iterable[Key]) -> None:
        """Delegate a new model to these keys, one of which suffices."""
        role = model_role(model)
        if self.base.newest(role) is None and role not in self._changed:
            empty = Targets(version=1, expires=expiry(self._now_unix_ms, OFFLINE_DAYS))
            self._changed[role] = Metadata(empty)
        self.set_keys(role, keys, 1)

    def add_release(self, model: str, version: str, manifest: bytes) -> SignedRelease:
        """Name a release of a model that is delegated.

        Raises:
            PeerError: `version_exists`: it is signed already with another manifest.
        """
        digest = digest_of(manifest)
        known = signed_before(self.base, model, version)
        if known is not None and known.manifest == digest:
            return known
        if known is not None:
            raise PeerError(
                f"{model}:{version} is signed with other content ({known.manifest[:12]}, this"
                f" bundle is {digest[:12]})",
                code="version_exists",
                hint="a release never changes: convert again with a new --version",
            )
        targets = self._touch_targets(model_role(model))
        release = SignedRelease(model, version, digest, len(manifest), next_number(model, targets))
        put_release(targets, release)
        return release

    def retire(self, model: str, version: str) -> None:
        """Take a release out: no device installs it any more.

        Raises:
            PeerError: `not_signed`.
        """
        release = signed_release(self.base, model, version)
        del self._touch_targets(model_role(model)).targets[target_path(model, release.version)]

    def raise_floor(self, model: str, version: str) -> None:
        """Kill every release of a model that was signed before this one.

        Raises:
            PeerError: `not_signed`.
        """
        release = signed_release(self.base, model, version)
        set_floor(self._touch_targets(model_role(model)), release.number)

    def set_keys(self, name: str, keys: Iterable[Key], threshold: int) -> None:
        """Give a role these keys and no others; documents that they must sign anew are touched.

        Raises:
            PeerError: `threshold_impossible`.
        """
        given = {key.keyid: key for key in keys}
        if not 1 <= threshold <= len(given):
            raise PeerError(
                f"{name} would have {len(given)} keys and need {threshold} signatures",
                code="threshold_impossible",
            )
        if name in (ROOT, TARGETS, SNAPSHOT, TIMESTAMP):
            root = self._touch(ROOT).signed
            assert isinstance(root, Root)  # noqa: S101 - the role decides the type
            root.roles[name] = Role(list(given), threshold)
            root.keys.update(given)
            root.keys = _used(root.keys, root.roles)
            if name == TARGETS:
                self._touch(TARGETS)
            return
        targets = self._touch_targets(TARGETS)
        model = model_of(name)
        paths = list(model_paths(model) if model else DIRECTOR_PATHS)
        roles = delegated_roles(targets)
        roles[name] = DelegatedRole(name, list(given), threshold, terminating=True, paths=paths)
        known = targets.delegations.keys if targets.delegations else {}
        targets.delegations = Delegations(
            _used({**known, **given}, roles), dict(sorted(roles.items()))
        )
        if model is not None:
            self._touch(name)

    # -- signing

    @property
    def is_empty(self) -> bool:
        """Whether nothing was changed."""
        return not self._changed

    @property
    def roles(self) -> list[str]:
        """The roles whose documents are changed."""
        return [role for role in (ROOT, TARGETS) if role in self._changed] + sorted(
            self._changed.keys() - {ROOT, TARGETS}
        )

    @property
    def signature_count(self) -> int:
        """How many signatures the documents have."""
        return sum(len(metadata.signatures) for metadata in self._changed.values())

    def sign(self, signers: Iterable[Signer]) -> None:
        """Sign each document with those of the signers that count for it."""
        for signer in signers:
            keyid = signer.public_key.keyid
            for role, metadata in self._changed.items():
                wanted = any(keyid in need.keyids for need in self.needs(role))
                if wanted and keyid not in metadata.signatures:
                    _sign(metadata, signer)

    def keyids(self) -> set[str]:
        """Return every key that may sign some document of the draft."""
        return {key for role in self._changed for need in self.needs(role) for key in need.keyids}

    def needs(self, role: str) -> list[Need]:
        """Return what must sign a document: a new root its own keys and those of the old one."""
        found = [delegator.get_delegated_role(role) for delegator in self._delegators(role)]
        needs = [Need(role, frozenset(part.keyids), part.threshold) for part in found]
        return list(dict.fromkeys(needs))

    def missing(self) -> list[tuple[str, int, frozenset[str]]]:
        """Return for each document how many signatures it lacks, and the keys that can give them."""
        result = []
        for role in self.roles:
            signed = set(self._changed[role].signatures)
            for need in self.needs(role):
                lacking = need.threshold - len(signed & need.keyids)
                if lacking > 0:
                    result.append((role, lacking, need.keyids - signed))
        return result

    def documents(self) -> list[Document[Signed]]:
        """Return the changed documents with the signatures they have.

        Raises:
            PeerError: `trust_too_large`.
        """
        return [freeze(role, self._changed[role]) for role in self.roles]

    def _drop_strange_signatures(self) -> None:
        """Keep the signatures that count: a file that is passed around can have any in it."""
        for role, metadata in self._changed.items():
            good = {}
            for delegator in self._delegators(role):
                result = delegator.get_verification_result(
                    role, metadata.signed_bytes, metadata.signatures
                )
                good.update({keyid: metadata.signatures[keyid] for keyid in result.signed})
            metadata.signatures.clear()
            metadata.signatures.update(good)

    def _delegators(self, role: str) -> list[Root | Targets]:
        root = self._changed.get(ROOT, self.base.root.metadata).signed
        targets = self._changed.get(TARGETS, self.base.targets.metadata).signed
        if role == ROOT:
            return [self.base.root.signed, root]
        return [root if role == TARGETS else targets]

    def _touch(self, role: str) -> Metadata[Root] | Metadata[Targets]:
        if role not in self._changed:
            old = self.base.newest(role)
            if old is None:
                raise PeerError(
                    f"there is no document of {role}",
                    code="unknown_role",
                    hint="`fleet keys show` lists the roles",
                )
            metadata = copy.deepcopy(old.metadata)
            metadata.signed.version += 1
            metadata.signed.expires = expiry(self._now_unix_ms, OFFLINE_DAYS)
            metadata.signatures.clear()
            self._changed[role] = metadata
        return self._changed[role]

    def _touch_targets(self, role: str) -> Targets:
        signed = self._touch(role).signed
        assert isinstance(signed, Targets)  # noqa: S101 - the role decides the type
        return signed


def found_root(keys: Mapping[str, Key], now_unix_ms: int) -> Metadata[Root]:
    """Return the first root of a fleet, not signed yet: one key for each role."""
    roles = {name: Role([key.keyid], 1) for name, key in keys.items()}
    return Metadata(
        Root(
            version=1,
            expires=expiry(now_unix_ms, OFFLINE_DAYS),
            keys={key.keyid: key for key in keys.values()},
            roles=roles,
            consistent_snapshot=True,
        )
    )


def found_targets(director: Key, now_unix_ms: int) -> Metadata[Targets]:
    """Return the first targets of a fleet, not signed yet: no model, and the director."""
    role = DelegatedRole(
        DIRECTOR, [director.keyid], 1, terminating=True, paths=list(DIRECTOR_PATHS)
    )
    delegations = Delegations({director.keyid: director}, {DIRECTOR: role})
    expires = expiry(now_unix_ms, OFFLINE_DAYS)
    return Metadata(Targets(version=1, expires=expires, delegations=delegations))


def signed_before(base: Repository, model: str, version: str) -> SignedRelease | None:
    """Return a release that is signed now, None where it is not."""
    document = base.models.get(model)
    return releases_of(model, document.signed).get(version) if document else None


def signed_release(base: Repository, model: str, version: str) -> SignedRelease:
    """Return a release that is signed now.

    Raises:
        PeerError: `not_signed`.
    """
    found = signed_before(base, model, version)
    if found is None:
        raise PeerError(
            f"{model}:{version} is not signed",
            code="not_signed",
            hint="`fleet push FILE.bundle` signs it; a retired release stays out",
        )
    return found


def _sign(metadata: Metadata[Root] | Metadata[Targets], signer: Signer) -> None:
    signature = signer.sign(metadata.signed_bytes)
    metadata.signatures[signature.keyid] = signature


def _used(keys: Mapping[str, Key], roles: Mapping[str, Role]) -> dict[str, Key]:
    used = {keyid for role in roles.values() for keyid in role.keyids}
    return {keyid: key for keyid, key in sorted(keys.items()) if keyid in used}
