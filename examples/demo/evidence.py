"""Views on the demo's evidence: the same facts, arranged for the claims that read them. Pure.

The evidence is one JSON object; `demo.py` writes it, and its times are seconds since the demo began.

    broker, devices, versions {good, bad, better}, disconnects
    steps      [{name, from_s, to_s}]
    commands   [{name, argv, exit_code, duration_s}]
    bundles    {version: {manifest, files {path: sha256}, bytes}}            read from the bundles
    wire       chunks [{digest, publishes, bytes, is_proven}]                seen by the observer
               content {version: {path: sha256}}                             put together from chunks
               messages [{at_s, topic, body}] · retained {topic: body}
    requests   {"device/tcp": [{version, status, count, with_16, right, first_s, last_s}]}
    processes  settled [{step, supervisors {device: [pid, start]}, runtimes {device: [[pid, start]]}}]
               children [{device, pid, started, first_s, last_s}]
               exit_codes {name: code} · left_over [[device, pid, start]]
    api        devices {step: {device: …}} · rollouts {version: …} · records {device: […]} · rollback
    drift      device, pixels [feature], outputs [feature], dirty_unix_ms    what was done to whom
               row_counts {version: {device: count}} before that             in windows that came
               before [finding], after [finding]              as `fleet drift list --json --since 1h`
    loop       versions {first, recovered} · changed_unix_ms · row_counts {device: count} before that
               rows {unseen [picture], "firm": {sha256, pictures [picture]}, …}    files that runs were given
               measured {before, during, after: {asked_count, right_count, accepted_count, versions}
                         counted by the inspector, {version, labelled_count, accuracy} by the controller}
               runs {first, refused, recovered: `fleet pipeline show --json`}
               bundles {the same: {manifest, files, bytes}} · refused {right_count, asked_count}
               retraining, releases, findings, alerts, lineage    as the commands print them in the end
               findings_before · events [{at_s, text}] · series [{at_s, version, count, right}]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Evidence = Mapping[str, Any]
MODEL = "digits"
RECORD_CHANNELS = (
    "event/update", "event/gap", "event/alarm",
    "telemetry/inference", "telemetry/window", "telemetry/shadow", "telemetry/performance",
    "telemetry/vitals",
)  # fmt: skip
CONFIRMED = ("confirmed", "confirmed_without_traffic")


class Said(NamedTuple):
    """One message to or from a device; `channel` is the rest of its topic."""

    at_s: float
    device: str
    channel: str
    body: Mapping[str, Any]


def said(evidence: Evidence, *channels: str, device: str | None = None) -> Iterator[Said]:
    """Yield the live device messages in the order of arrival, of all channels if none is named."""
    for message in evidence["wire"]["messages"]:
        levels = message["topic"].split("/")
        if levels[:3] != ["fleet", "v1", "device"] or len(levels) < 5:
            continue
        one = Said(message["at_s"], levels[3], "/".join(levels[4:]), message["body"])
        if (not channels or one.channel in channels) and device in (None, one.device):
            yield one


def digits(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the demo's model in a desired or reported state, or None."""
    return next((model for model in body.get("models", ()) if model["name"] == MODEL), None)


def manifest_of(evidence: Evidence, version: str) -> str:
    """Return the digest that identifies `version`, as the bundle on disk has it."""
    return str(evidence["bundles"][version]["manifest"])


def mentions(body: Any, word: str) -> bool:
    """Return whether `word` stands anywhere in a body, as a value."""
    if isinstance(body, Mapping):
        return any(mentions(value, word) for value in body.values())
    if isinstance(body, list):
        return any(mentions(value, word) for value in body)
    return bool(body == word)


def canary_of(evidence: Evidence, version: str) -> str:
    """Return the one device of the first phase of the rollout of `version`."""
    members = evidence["api"]["rollouts"][version]["members"]
    first = [member["device"] for member in members if member["phase"] == 0]
    return first[0] if len(first) == 1 else ""


def step(evidence: Evidence, name: str) -> Mapping[str, Any]:
    """Return a step by its name."""
    return next(one for one in evidence["steps"] if one["name"] == name)


def exit_code(evidence: Evidence, command: str) -> int | None:
    """Return how a command of the demo ended; None when it was never run."""
    codes = [one["exit_code"] for one in evidence["commands"] if one["name"] == command]
    return codes[-1] if codes else None


def segments(evidence: Evidence, device: str | None = None) -> Iterator[tuple[str, list[Any]]]:
    """Yield each client's device and its segments."""
    for client, runs in evidence["requests"].items():
        owner = client.rpartition("/")[0]
        if device in (None, owner):
            yield owner, runs


def neighbours(runs: list[Any], index: int) -> set[str]:
    """Return the versions that answered last before and first after a segment."""
    before = [run["version"] for run in runs[:index] if run["version"] is not None]
    after = [run["version"] for run in runs[index + 1 :] if run["version"] is not None]
    return {*before[-1:], *after[:1]}
