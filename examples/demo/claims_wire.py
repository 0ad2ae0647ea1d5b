"""Claims on what went over the wire, as the independent observer saw it. Pure.

Each returns the sentence that it proves.

Raises:
    Disproved: In all of them, with what contradicts the claim.
"""

from __future__ import annotations

from collections import Counter

from evidence import (
    CONFIRMED,
    Evidence,
    Said,
    canary_of,
    digits,
    manifest_of,
    mentions,
    said,
    segments,
)  # fmt: skip
from verdict import require


def observer_saw_everything(evidence: Evidence) -> str:
    """The observer was subscribed from before the first device until after the last."""
    require(evidence["disconnects"] == 0, f"it lost its connection {evidence['disconnects']} times")
    births = {one.device for one in said(evidence, "presence") if one.body["state"] == "online"}
    require(births == set(evidence["devices"]), f"it saw only {sorted(births)} come online")
    count = len(evidence["wire"]["messages"])
    return f"one connection saw all three devices come online, and {count} messages in all"


def bundle_is_what_devices_report(evidence: Evidence) -> str:
    """Manifest digests in reports are those of the bundles that the converter wrote."""
    actives: set[tuple[str, str]] = set()
    for one in said(evidence, "reported"):
        model = digits(one.body) or {}
        for role in ("active", "fallback", "target"):
            release = model.get(role)
            if release is None:
                continue
            version, wanted = release["version"], manifest_of(evidence, release["version"])
            require(
                release["manifest"] == wanted,
                f"{one.device} reports {version} as {release['manifest'][:12]}, not {wanted[:12]}",
            )
            if role == "active":
                actives.add((one.device, version))
    for version in (evidence["versions"]["good"], evidence["versions"]["better"]):
        missing = [d for d in evidence["devices"] if (d, version) not in actives]
        require(not missing, f"{missing} never reported {version} as active")
    return "every report names the sha-256 of the manifest in the bundle that was pushed"


def content_travelled_in_chunks(evidence: Evidence) -> str:
    """Put together from the chunks alone, the files equal those in the bundles."""
    wire = evidence["wire"]
    unproven = [chunk["digest"][:12] for chunk in wire["chunks"] if not chunk["is_proven"]]
    require(not unproven, f"chunks are not what their topics say: {unproven[:3]}")
    for version, bundle in evidence["bundles"].items():
        sent = wire["content"].get(version, {})
        wrong = [path for path, digest in bundle["files"].items() if sent.get(path) != digest]
        require(not wrong, f"{version}: {wrong} did not travel as they are in the bundle")
    total = sum(chunk["bytes"] for chunk in wire["chunks"]) // 1024
    return f"{len(wire['chunks'])} chunks ({total} KiB) hold all files of all bundles, each proven"


def each_chunk_published_once(evidence: Evidence) -> str:
    """One upload serves all devices; only what a device asked for was published again."""
    asked = Counter(
        digest for one in said(evidence, "event/chunks_missing") for digest in one.body["chunks"]
    )
    chunks = evidence["wire"]["chunks"]
    repeated = [c["digest"][:12] for c in chunks if c["publishes"] > 1 + asked[c["digest"]]]
    require(chunks, "no chunk was published")
    require(not repeated, f"{len(repeated)} chunks were published again unasked: {repeated[:3]}")
    publishes = sum(chunk["publishes"] for chunk in chunks)
    return f"{publishes} publications of {len(chunks)} chunks served {len(evidence['devices'])} devices"


def phases_in_order(evidence: Evidence) -> str:
    """A device was asked only after all of the phases before its own had confirmed."""
    for version in (evidence["versions"]["good"], evidence["versions"]["better"]):
        rollout = evidence["api"]["rollouts"][version]
        phase_of = {member["device"]: member["phase"] for member in rollout["members"]}
        require(rollout["state"] == "finished", f"{version}: the rollout is {rollout['state']}")
        require(
            [phase["size"] for phase in rollout["phases"]] == [1, 2, 3],
            f"{version}: phases of {[phase['size'] for phase in rollout['phases']]} devices",
        )
        require(canary_of(evidence, version), f"{version}: there is not one canary")
        confirmed: set[str] = set()
        for one in said(evidence, "desired", "reported"):
            if one.channel == "reported" and _ended_as(one, version) in CONFIRMED:
                confirmed.add(one.device)
            wanted = digits(one.body) if one.channel == "desired" else None
            if wanted is None or wanted["version"] != version:
                continue
            phase = phase_of[one.device]
            early = {d for d, earlier in phase_of.items() if earlier < phase} - confirmed
            require(
                not early, f"{version}: {one.device} was asked before {sorted(early)} confirmed"
            )
    return "in both good rollouts the canary came first and each phase waited for the one before"


def canary_rolled_back_by_itself(evidence: Evidence) -> str:
    """The canary returned while it was still told to serve the bad model."""
    bad, good = evidence["versions"]["bad"], evidence["versions"]["good"]
    canary, digest = canary_of(evidence, bad), manifest_of(evidence, bad)
    wanted, report = None, None
    for one in said(evidence, "desired", "reported", device=canary):
        if one.channel == "desired":
            wanted = digits(one.body)
        elif _ended_as(one, bad) is not None:
            report = digits(one.body)
            break
    require(report is not None, f"{canary} never reported how {bad} ended")
    assert report is not None
    require(report["outcome"] == "rolled_back", f"{bad} ended as {report['outcome']} on {canary}")
    require(report["code"] == "error_ratio", f"{bad} ended for {report['code']}, not error_ratio")
    require(
        wanted is not None and wanted["version"] == bad,
        f"{canary} had been told to leave {bad} before it reported the rollback",
    )
    require((report["active"] or {}).get("version") == good, f"{canary} did not return to {good}")
    kept = [
        one for one in said(evidence, "reported", device=canary)
        if any(bundle["manifest"] == digest for bundle in one.body.get("quarantined", ()))
    ]  # fmt: skip
    require(kept, f"{canary} never reported {bad} as quarantined")
    return f"{canary} rolled {bad} back for error_ratio before it was told to, and quarantined it"


def others_never_ran_the_bad_model(evidence: Evidence) -> str:
    """No message to or from another device, and no answer of theirs, names the bad model."""
    bad = evidence["versions"]["bad"]
    canary, digest = canary_of(evidence, bad), manifest_of(evidence, bad)
    require(canary, f"the rollout of {bad} has not one canary")
    others = set(evidence["devices"]) - {canary}
    for one in said(evidence):
        if one.device in others and (mentions(one.body, digest) or mentions(one.body, bad)):
            require(condition=False, contradiction=f"{one.device}/{one.channel} speaks of {bad}")
    return f"nothing to or from {' and '.join(sorted(others))} ever spoke of {bad}"


def telemetry_counts_the_requests(evidence: Evidence) -> str:
    """Each device reported requests of each good version, and none that were not made."""
    counted: Counter[tuple[str, str]] = Counter()
    seen: set[tuple[str, str, int]] = set()
    for one in said(evidence, "telemetry/inference"):
        key = one.device, one.body["boot"], one.body["seq"]
        if key not in seen:
            seen.add(key)
            counted[one.device, one.body["version"]] += one.body["request_count"]
    for device in evidence["devices"]:
        for version in (evidence["versions"]["good"], evidence["versions"]["better"]):
            made = sum(
                run["count"] for _, runs in segments(evidence, device) for run in runs
                if run["version"] == version
            )  # fmt: skip
            told = counted[device, version]
            require(told > 0, f"{device} reported no request to {version}")
            require(told <= made, f"{device} reported {told} requests to {version} of {made} made")
    total = sum(counted.values())
    return f"{len(seen)} records of telemetry account for {total} requests, none of them invented"


def _ended_as(one: Said, version: str) -> str | None:
    """Return the outcome that a report gives for `version`, or None while there is none."""
    model = digits(one.body) or {}
    is_target = (model.get("target") or {}).get("version") == version
    return model.get("outcome") if is_target else None
