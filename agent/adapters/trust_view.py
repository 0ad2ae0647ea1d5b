"""What a run of python-tuf's client has verified, as the decisions of `agent.core.trust` want it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from tuf.api.metadata import Metadata, Targets

from agent.core.trust import Fault, Mark, Marks, ModelFacts, RoleFacts, SignedRelease, TrustView
from wire.ids import DIGEST_PATTERN
from wire.lifecycle import Code
from wire.messages import MAX_INTEGER
from wire.trust import DIRECTOR, FLOOR_FIELD, NUMBER_FIELD, model_role, target_path

from .ngclient import Run, keys_of, signers, unix_ms

ROOT_MARK: Final = "root"
PUBLIC_KEY: Final = re.compile(r"[0-9a-f]{64}")


def view_of(run: Run, paths: Mapping[str, str], *, device: str, marks: Marks) -> TrustView:
    """Return the view of a run that came to its end.

    Args:
        run: The run.
        paths: Model to the path by which its role was looked up.
        device: Whose directors are wanted.
        marks: As they are after the run; a model's floor is never below its mark.
    """
    if run.timestamp is None or run.snapshot is None or run.targets is None:
        raise RuntimeError("a run that ended early has no view")
    models: dict[str, ModelFacts] = {}
    faults: dict[str, Fault] = {}
    for model, path in paths.items():
        found = run.faults.get(path) or _model(run, model, marks)
        if isinstance(found, Fault):
            faults[model] = found
        else:
            models[model] = found
    return TrustView(
        roles={
            "root": _facts(run.root),
            "timestamp": _facts(run.timestamp),
            "snapshot": _facts(run.snapshot),
            "targets": _facts(run.targets),
        },
        models=models,
        faults=faults,
        directors=_directors(run.targets.signed, device),
    )


def marks_of(run: Run, known: Marks) -> tuple[Marks, Fault | None]:
    """Return the marks after a run, and what in it is older than they are, if anything is."""
    root = run.root.signed
    if root.version < (newest := known.get(ROOT_MARK, Mark(0)).version):
        return known, _fallen("root", newest, root.version)
    fresh = {**known, ROOT_MARK: Mark(root.version)}
    for judge, versions, document in _claims(run):
        ids, threshold = keys_of(root, judge)
        for name in set(versions) | {n for n in known if _judge(n) == judge}:
            mark, version = known.get(name, Mark(0)), versions.get(name, 0)
            if version < mark.version and mark.holds(ids, threshold):
                return known, _fallen(name, mark.version, version)
        marks = [(known.get(name, Mark(0)), version) for name, version in versions.items()]
        if any(m.version != version or not m.holds(ids, threshold) for m, version in marks):
            keyids = signers(root, judge, document)
            fresh.update({name: Mark(version, keyids) for name, version in versions.items()})
    _raise_floors(run, fresh)
    return fresh, None


def _claims(run: Run) -> Iterator[tuple[str, Mapping[str, int], Metadata]]:  # type: ignore[type-arg]
    """Give what the run's documents say of versions: who says it, what, and in which document."""
    if run.timestamp is None:
        return
    stamp = run.timestamp.signed
    named = stamp.snapshot_meta.version
    yield "timestamp", {"timestamp": stamp.version, "snapshot": named}, run.timestamp
    # An older snapshot is there only until the one of the timestamp arrives.
    if run.snapshot is not None and run.snapshot.signed.version == named:
        listed = {name: meta.version for name, meta in run.snapshot.signed.meta.items()}
        yield "snapshot", listed, run.snapshot


def _judge(name: str) -> str:
    """Return the role whose word a mark was taken from."""
    if name in ("timestamp", "snapshot"):
        return "timestamp"
    return "snapshot" if name.endswith(".json") else ""


def _fallen(name: str, mark: int, version: int) -> Fault:
    return Fault(Code.TRUST_ROLLBACK, f"{name}: version {mark} was trusted once, here is {version}")


def _raise_floors(run: Run, fresh: dict[str, Mark]) -> None:
    if run.targets is None:
        return
    for role, document in run.delegated.items():
        floor, name = _floor(document.signed), f"floor/{role}"
        ids, threshold = keys_of(run.targets.signed, role)
        known = fresh.get(name, Mark(0))
        if floor is not None and (floor > known.version or not known.holds(ids, threshold)):
            fresh[name] = Mark(floor, signers(run.targets.signed, role, document))


def _model(run: Run, model: str, marks: Marks) -> ModelFacts | Fault:
    role = model_role(model)
    document = run.delegated.get(role)
    if document is None:
        return Fault(Code.NOT_SIGNED, f"no keys are named that sign releases of {model}")
    signed = document.signed
    if (floor := _floor(signed)) is None:
        return Fault(Code.TRUST_MALFORMED, f"{role}: its floor is no number")
    releases = {}
    for path, target in signed.targets.items():
        version = path.split("/")[1] if path.count("/") == 2 else ""
        number = (target.custom or {}).get(NUMBER_FIELD)
        digest = target.hashes.get("sha256", "")
        if number is None or not _is_count(number) or not re.fullmatch(DIGEST_PATTERN, digest):
            continue
        if path == target_path(model, version):
            releases[version] = SignedRelease(digest, target.length, number)
    mark = marks.get(f"floor/{role}", Mark(0))
    return ModelFacts(_facts(document), max(floor, mark.version), releases)


def _floor(signed: Targets) -> int | None:
    floor = signed.unrecognized_fields.get(FLOOR_FIELD, 0)
    return floor if _is_count(floor) else None


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_INTEGER


def _facts(document: Metadata) -> RoleFacts:  # type: ignore[type-arg]
    return RoleFacts(document.signed.version, unix_ms(document.signed.expires))


def _directors(targets: Targets, device: str) -> dict[str, str]:
    delegations = targets.delegations
    role = delegations and delegations.roles and delegations.roles.get(DIRECTOR)
    if not delegations or not role or not role.is_delegated_path(f"desired/{device}"):
        return {}
    keys = {keyid: delegations.keys[keyid] for keyid in role.keyids if keyid in delegations.keys}
    return {
        keyid: key.keyval["public"]
        for keyid, key in keys.items()
        if key.keytype == key.scheme == "ed25519" and PUBLIC_KEY.fullmatch(key.keyval["public"])
    }
