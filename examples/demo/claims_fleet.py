"""Claims on answers, processes, exit codes and the API. Pure; see `claims_wire`."""

from __future__ import annotations

from collections import Counter
from itertools import groupby, pairwise

from evidence import (
    RECORD_CHANNELS,
    Evidence,
    canary_of,
    digits,
    exit_code,
    neighbours,
    said,
    segments,
    step,
)  # fmt: skip
from verdict import require

MIN_ACCURACY = 0.9
"""Both good variants are above 0.95 on the rows that they did not see; chance is 0.1."""
MIN_ANSWERS = 20


def right_labels(evidence: Evidence) -> str:
    """The answers agree with the labels of the data, on each device and version."""
    worst = 1.0
    for device in evidence["devices"]:
        for version in (evidence["versions"]["good"], evidence["versions"]["better"]):
            runs = [
                run for _, all_runs in segments(evidence, device) for run in all_runs
                if run["version"] == version
            ]  # fmt: skip
            count, right = (sum(run[key] for run in runs) for key in ("count", "right"))
            require(count >= MIN_ANSWERS, f"{device} gave only {count} answers of {version}")
            worst = min(worst, right / count)
            require(
                right / count >= MIN_ACCURACY,
                f"{device}: {right} of {count} answers of {version} are right",
            )
    return f"on each device at least {worst:.1%} of each good version's answers are right"


def versions_in_order(evidence: Evidence) -> str:
    """Each client saw the versions change in the order of the rollouts, and never back."""
    good, bad, better = (evidence["versions"][key] for key in ("good", "bad", "better"))
    loop = evidence["loop"]["versions"]
    canary = canary_of(evidence, bad)
    count = 0
    for device, runs in segments(evidence):
        seen = [key for key, _ in groupby(run["version"] for run in runs if run["version"])]
        tried = [good, bad] if device == canary else []
        wanted = [*tried, good, better, good, loop["first"], loop["recovered"]]
        require(seen == wanted, f"a client of {device} saw {' '.join(seen)}")
        count += 1
    require(count >= 2 * len(evidence["devices"]), f"there were only {count} clients")
    return f"each of {count} clients saw exactly the versions of the rollouts, each change once"


def no_other_request_failed(evidence: Evidence) -> str:
    """Failures are answers of the bad model, on the canary, to rows that it cannot serve."""
    bad = evidence["versions"]["bad"]
    canary = canary_of(evidence, bad)
    answered = failed = 0
    for device, runs in segments(evidence):
        for index, run in enumerate(runs):
            if run["version"] is not None:
                answered += run["count"]
                continue
            failed += run["count"]
            is_expected = (
                device == canary
                and run["status"] == 500
                and run["with_16"] == run["count"]
                and bad in neighbours(runs, index)
            )
            require(
                is_expected,
                f"{run['count']} requests to {device} failed with {run['status']} at {run['first_s']} s",
            )
    return f"{answered} requests answered; {failed} failed, all of them by {bad} on its canary"


def rollout_halted(evidence: Evidence) -> str:
    """The command told it by its exit code, and the API agrees."""
    bad = evidence["versions"]["bad"]
    code, rollout = exit_code(evidence, f"rollout {bad}"), evidence["api"]["rollouts"][bad]
    require(code == 3, f"`fleet rollout start` ended with {code}, not 3")
    require(rollout["state"] == "halted", f"the API calls the rollout {rollout['state']}")
    require(rollout["reason"], "the API gives no reason")
    return f"the rollout of {bad} halted with exit code 3: {rollout['reason']}"


def supervisors_unchanged(evidence: Evidence) -> str:
    """The same three agent processes from the first to the last."""
    settled = evidence["processes"]["settled"]
    require(len(settled) >= 5, f"only {len(settled)} looks at the processes")
    for look in settled[1:]:
        for device in evidence["devices"]:
            before, now = settled[0]["supervisors"][device], look["supervisors"][device]
            require(before == now, f"{device}: the agent was {before}, at {look['step']} {now}")
    return f"the agents kept their process ids and start times over {len(settled)} looks"


def runtime_replaced_at_each_swap(evidence: Evidence) -> str:
    """Another runtime process wherever the version changed, the same where it did not."""
    processes, canary = evidence["processes"], canary_of(evidence, evidence["versions"]["bad"])
    settled = processes["settled"]
    for before, now in pairwise(settled):
        for device in evidence["devices"]:
            was, present = before["runtimes"][device], now["runtimes"][device]
            require(len(present) == 1, f"{device} settled with {len(present)} runtimes")
            if now["step"] != evidence["versions"]["bad"]:
                require(was != present, f"{device}: the runtime is the same after {now['step']}")
            elif device != canary:
                require(was == present, f"{device} was no canary and got a new runtime")
    span = step(evidence, evidence["versions"]["bad"])
    tried = [
        child for child in processes["children"]
        if child["device"] == canary and span["from_s"] <= child["first_s"] <= span["to_s"]
    ]  # fmt: skip
    require(tried, "the canary tried the bad model in no process of its own")
    lives = Counter(child["device"] for child in processes["children"])
    counts = ", ".join(f"{device} {lives[device]}" for device in evidence["devices"])
    return f"each swap was a new process: runtimes in all {counts}"


def store_has_each_record_once(evidence: Evidence) -> str:
    """What the API has is what went over the wire, without a gap and without a double."""
    total = 0
    for device in evidence["devices"]:
        stored = [(row["boot"], row["seq"]) for row in evidence["api"]["records"][device]]
        sent = {
            (one.body["boot"], one.body["seq"])
            for one in said(evidence, *RECORD_CHANNELS, device=device)
        }
        doubled = len(stored) - len(set(stored))
        require(not doubled, f"{device}: {doubled} records are in the store twice")
        require(set(stored) >= sent, f"{device}: {len(sent - set(stored))} records were lost")
        require(set(stored) <= sent, f"{device}: {len(set(stored) - sent)} records never travelled")
        total += len(stored)
    require(total, "there are no records")
    return f"{total} records on the wire, the same {total} in the store"


def rollback_returned_every_device(evidence: Evidence) -> str:
    """`fleet rollback` brought all devices to the release that they had confirmed before."""
    good, better = evidence["versions"]["good"], evidence["versions"]["better"]
    require(exit_code(evidence, "rollback") == 0, "`fleet rollback` failed")
    for device in evidence["devices"]:
        for name, version in ((better, better), ("rollback", good)):
            found = digits(evidence["api"]["devices"][name][device]) or {}
            active = found.get("active_version")
            require(active == version, f"after {name} the API has {active} on {device}")
    return f"every device went from {better} to {good} by one command"


def broker_agrees_with_api(evidence: Evidence) -> str:
    """The states that the broker retained say the same as the API."""
    retained = evidence["wire"]["retained"]
    for device in evidence["devices"]:
        known = evidence["api"]["devices"]["end"][device]
        reported = retained[f"fleet/v1/device/{device}/reported"]
        presence = retained[f"fleet/v1/device/{device}/presence"]
        model, listed = digits(reported), digits(known)
        assert model is not None
        assert listed is not None
        pairs = {
            "presence": (presence["state"], known["state"]),
            "generation": (reported["generation"], known["reported_generation"]),
            "desired generation": (reported["generation"], known["desired_generation"]),
            "version": (model["active"]["version"], listed["active_version"]),
            "manifest": (model["active"]["manifest"], listed["active_manifest"]),
            "state": (model["state"], listed["state"]),
            "outcome": (model["outcome"], listed["outcome"]),
        }
        for what, (kept, told) in pairs.items():
            require(kept == told, f"{device}: the broker has {what} {kept}, the API {told}")
    return "retained presence and reported states equal the API's, field by field"


def all_ended_in_good_order(evidence: Evidence) -> str:
    """Every program ended with 0 on SIGTERM and left no process behind."""
    processes = evidence["processes"]
    wrong = {name: code for name, code in processes["exit_codes"].items() if code != 0}
    require(not wrong, f"exit codes {wrong}")
    require(
        set(evidence["devices"]) < set(processes["exit_codes"]),
        "not every program was asked to end",
    )
    require(not processes["left_over"], f"left over: {processes['left_over']}")
    return "all programs ended with 0 when asked to, and no runtime was left"
