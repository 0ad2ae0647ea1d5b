"""Devices and releases: what a person adds, changes and removes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fleet import acts, live
from fleet.api.schemas import DeviceIn
from fleet.core.rights import WHOLE_FLEET, Scope, is_within
from fleet.store.devices import Selection
from fleet.store.journal import EventRow
from fleet.store.releases import ReleaseRow
from fleet.store.store import Store, Tx
from wire import topics
from wire.errors import PeerError
from wire.ids import NAME_PATTERN
from wire.manifest import MANIFEST

from .tokens import out_of_scope


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did; the counts speak of chunks that no release before it had."""

    release: ReleaseRow
    is_new: bool
    new_chunk_count: int = 0
    new_bytes: int = 0


def push(store: Store, path: Path, now_unix_ms: int) -> Pushed:
    """Make the bundle at `path` a release, and its chunks ready to be published.

    Pushing the same bundle again changes nothing, and heals chunks that were lost on disk.

    Raises:
        BundleError: The archive is truncated, foreign or tampered with.
        PeerError: `version_exists`: this version is there with another content.
        StorageError: The store failed; nothing was added.
    """
    # Both bring numpy; the controller starts without it.
    from fleet.chunker import cut_bundle
    from wire.bundle import read_bundle

    opened = read_bundle(path)
    name, version = opened.manifest.name, opened.manifest.version
    acts.about(f"{name}:{version} {opened.manifest_digest}")
    with store.read() as tx:
        _refuse_other_content(tx, name, version, opened.manifest_digest)
    cut = cut_bundle(opened.files)
    lengths = store.chunks.add(cut.chunks)
    release = ReleaseRow(
        model=name,
        version=version,
        manifest=opened.manifest_digest,
        index_digest=cut.index_digest,
        bytes=sum(len(data) for data in opened.files.values()),
        chunk_count=len(cut.chunks),
        manifest_body=opened.files[MANIFEST].decode(),
        created_unix_ms=now_unix_ms,
    )
    with store.write() as tx:
        old = _refuse_other_content(tx, name, version, opened.manifest_digest)
        if old is not None:
            return Pushed(old, is_new=False)
        sizes = {digest: (len(cut.chunks[digest]), lengths[digest]) for digest in cut.chunks}
        fresh = tx.releases.add(release, sizes)
        new_bytes = sum(lengths[digest] for digest in fresh)
        text = f"pushed, {len(fresh)} of {len(sizes)} chunks are new"
        tx.journal.note([EventRow("release", f"{name}:{version}", text)], now_unix_ms)
    return Pushed(release, is_new=True, new_chunk_count=len(fresh), new_bytes=new_bytes)


def _refuse_other_content(tx: Tx, name: str, version: str, manifest: str) -> ReleaseRow | None:
    old = tx.releases.get(name, version)
    if old is not None and old.manifest != manifest:
        raise PeerError(
            f"{name}:{version} is there with other content ({old.manifest[:12]}, this bundle is"
            f" {manifest[:12]})",
            code="version_exists",
            hint="a release never changes: convert again with a new --version",
        )
    return old


def add_devices(
    tx: Tx, devices: Iterable[DeviceIn], now_unix_ms: int, *, scope: Scope = WHOLE_FLEET
) -> None:
    """Admit devices, all of them or none.

    Raises:
        PeerError: `device_exists`, `device_twice` or `out_of_scope`.
    """
    added = [(device.id, device.tags) for device in devices]
    acts.about(", ".join(device for device, _ in added[:10]))
    for _, tags in added:
        _refuse_outside(tags, scope)
    tx.devices.add(added, now_unix_ms)
    subject = added[0][0] if len(added) == 1 else f"{len(added)} devices"
    tx.journal.note([EventRow("device", subject, "added")], now_unix_ms)


def set_tags(
    tx: Tx,
    device: str,
    tags: Mapping[str, str],
    now_unix_ms: int,
    *,
    scope: Scope = WHOLE_FLEET,
) -> None:
    """Replace the tags of a device; rollouts that run keep the devices they started with.

    Raises:
        PeerError: `unknown_device`, or `out_of_scope`: it would leave the scope.
    """
    require_device(tx, device, scope)
    _refuse_outside(tags, scope)
    tx.devices.set_tags(device, tags)
    shown = ", ".join(f"{key}={value}" for key, value in sorted(tags.items())) or "none"
    tx.journal.note([EventRow("device", device, f"tags: {shown}")], now_unix_ms)


def remove_device(tx: Tx, device: str, now_unix_ms: int, *, scope: Scope = WHOLE_FLEET) -> None:
    """Remove a device with its records, revoke its certificates, and clear what the broker retains of it.

    An agent that still runs keeps serving; it ignores the empty desired state. The broker is told of
    the certificates by `Access.see_out`, now or, after a kill, when the controller starts again.

    Raises:
        PeerError: `unknown_device`.
    """
    require_device(tx, device, scope)
    live.end(tx, device, now_unix_ms)
    tx.identities.drop_tokens(device)
    tx.identities.revoke(device, now_unix_ms)
    tx.devices.remove(device)
    tx.alerts.forget(device, now_unix_ms)
    clear_retained(tx, device)
    tx.journal.note([EventRow("device", device, "removed")], now_unix_ms)


def clear_retained(tx: Tx, device: str) -> None:
    """Have the broker forget a device that is not in the fleet."""
    for topic in topics.retained_topics(device):
        tx.journal.publish(topic, "")


def require_device(tx: Tx, device: str, scope: Scope = WHOLE_FLEET) -> None:
    """Check that a device is in the fleet, and in a scope: outside of it is as if it were not.

    Raises:
        PeerError: `unknown_device`.
    """
    if not tx.devices.ids(Selection(device=device, scope=scope)):
        is_name = re.fullmatch(NAME_PATTERN, device) is not None
        raise PeerError(
            f"there is no device {device[:80]!r}",
            code="unknown_device",
            hint=f"`fleet device add {device}` admits it"
            if is_name
            else "`fleet devices` lists them",
        )


def _refuse_outside(tags: Mapping[str, str], scope: Scope) -> None:
    if not is_within(tags, scope):
        raise out_of_scope(scope, "each device must carry these tags")


def matched(tx: Tx, selection: Selection) -> list[str]:
    """Return the ids of the selected devices.

    Raises:
        PeerError: `no_device_matches`.
    """
    devices = tx.devices.ids(selection)
    if not devices:
        wish = " ".join(f"{key}={value}" for key, value in selection.match.items())
        raise PeerError(
            f"no device matches {wish or 'because there are none'}",
            code="no_device_matches",
            hint="`fleet devices` lists the devices and their tags",
        )
    return devices
