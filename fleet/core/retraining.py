"""When a model is trained again: what calls for it, what holds it back, and what stops it.

Drift findings, a measured accuracy that is too low, and the calendar call for a run. What has
caused one run causes none again, so a finding that lasts does not train every day. A cool-down after each
run and a budget hold back; two runs in a row whose model is refused stop all triggers, since
what they learn from is not what is missing: a person looks, and resumes them.

Instants are milliseconds of the Unix epoch. `settled` brings those of a clock that was ahead back to now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

Kind = Literal["hand", "drift", "accuracy", "schedule"]
Verdict = Literal[
    "bless",
    "inconclusive",  # too little evidence: neither good nor bad
    "refuse",  # by the evaluation
    "failed",  # there is no model
    "halted",  # by the fleet: its rollout halted
]
REFUSALS: Final[frozenset[Verdict]] = frozenset({"refuse", "failed", "halted"})
MAX_REFUSALS: Final = 2
"""In a row; the first may be chance, the second is a pattern."""
Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Policy:
    """`[retrain]` of a project.

    Attributes:
        on: What may start a run.
        every_ms: After how long the calendar calls for one; None is never.
        cooldown_ms: How long after the end of a run none is started.
        budget_count: How many runs may start within `budget_ms`, whatever started them.
        budget_ms: See there.
        min_accuracy: What the measured accuracy must not certainly be below, 0 to 1; None is no limit.
    """

    on: frozenset[Kind]
    every_ms: int | None = None
    cooldown_ms: int = 24 * 3_600_000
    budget_count: int = 4
    budget_ms: int = 30 * 86_400_000
    min_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class DriftSeen:
    """A drift finding that lasts: its number, in words, and as the API gave it."""

    id: int
    text: str
    evidence: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AccuracySeen:
    """A measured accuracy of one release: the upper end of its interval, and as the API gave it."""

    manifest: str
    accuracy: float
    upper: float
    row_count: int
    evidence: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run that was started, by a trigger or by hand.

    Attributes:
        kind: What started it.
        started_unix_ms: When.
        ended_unix_ms: When it ended; None while it runs.
        verdict: How; None while it runs.
        causes: What it was started for, so that it causes no other: see `DriftSeen` and `AccuracySeen`.
        run: Its id, once it is known.
    """

    kind: Kind
    started_unix_ms: int
    ended_unix_ms: int | None = None
    verdict: Verdict | None = None
    causes: frozenset[str] = frozenset()
    run: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a decision looks at, as of now.

    Attributes:
        findings: Drift findings of the model that last.
        accuracies: Measured accuracies of releases that serve.
        runs: All runs that are known, in any order.
        watched_unix_ms: Since when the calendar counts, where there was no run yet.
        resumed_unix_ms: When a person last resumed the triggers: refusals before that no longer count.
    """

    findings: Sequence[DriftSeen] = ()
    accuracies: Sequence[AccuracySeen] = ()
    runs: Sequence[PastRun] = ()
    watched_unix_ms: int = 0
    resumed_unix_ms: int = 0


@dataclass(frozen=True, slots=True)
class Start:
    """Start a run now."""

    kind: Kind
    why: str
    causes: frozenset[str]
    evidence: Json


@dataclass(frozen=True, slots=True)
class Wait:
    """Start none; look again at `until_unix_ms`, or, with None, when there is news."""

    why: str
    until_unix_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """Start none until a person resumes: these runs came to nothing, oldest first."""

    why: str
    runs: tuple[PastRun, ...]


Decision = Start | Wait | Stopped


def decide(policy: Policy, seen: Seen, now_unix_ms: int) -> Decision:
    """Return whether to start a run. Total; the same for the same arguments."""
    if any(run.ended_unix_ms is None for run in seen.runs):
        return Wait("a run is under way")
    if (refused := refusals(seen)) and len(refused) >= MAX_REFUSALS:
        words = " and ".join(f"{run.run or 'a run'} ({run.verdict})" for run in refused)
        return Stopped(f"refused {len(refused)} times in a row: {words}", refused)
    due = _due_unix_ms(policy, seen)
    wish = (
        _drifted(policy, seen)
        or _inaccurate(policy, seen)
        or (_scheduled(policy, seen) if due is not None and now_unix_ms >= due else None)
    )
    until, why = _held_back(policy, seen.runs, now_unix_ms)
    if wish is None:
        return Wait("nothing calls for a run", None if due is None else max(due, until))
    if now_unix_ms < until:
        return Wait(f"{wish.why}; {why}", until)
    return wish


def by_hand(seen: Seen, why: str) -> Decision:
    """Return whether a person's run may start: cool-down, budget and refusals hold nobody back."""
    if any(run.ended_unix_ms is None for run in seen.runs):
        return Wait("a run is under way")
    return Start("hand", why, frozenset(), {})


def refusals(seen: Seen) -> tuple[PastRun, ...]:
    """Return the newest runs in a row whose model was refused, since a person resumed; oldest first.

    A blessed model ends the row, one without enough evidence neither ends nor lengthens it; nor do
    runs by hand that are refused: who tries things out stops no trigger.
    """
    found: list[PastRun] = []
    for run in sorted(seen.runs, key=lambda run: run.started_unix_ms, reverse=True):
        if run.started_unix_ms < seen.resumed_unix_ms or run.verdict == "bless":
            break
        if run.verdict in REFUSALS and run.kind != "hand":
            found.append(run)
    return tuple(reversed(found))


def settled(runs: Iterable[PastRun], now_unix_ms: int) -> tuple[PastRun, ...]:
    """Return runs with no instant that is still to come: the clock was ahead, and was set right."""
    return tuple(
        replace(
            run,
            started_unix_ms=min(run.started_unix_ms, now_unix_ms),
            ended_unix_ms=None
            if run.ended_unix_ms is None
            else min(run.ended_unix_ms, now_unix_ms),
        )
        for run in runs
    )


def _drifted(policy: Policy, seen: Seen) -> Start | None:
    if "drift" not in policy.on:
        return None
    new = [f for f in seen.findings if f"finding:{f.id}" not in _caused(seen.runs)]
    if not new:
        return None
    return Start(
        "drift",
        "; ".join(finding.text for finding in new),
        frozenset(f"finding:{finding.id}" for finding in new),
        {"findings": [dict(finding.evidence) for finding in new]},
    )


def _inaccurate(policy: Policy, seen: Seen) -> Start | None:
    """Return a run for releases whose accuracy is below the limit beyond doubt: its upper end is."""
    limit = policy.min_accuracy
    if "accuracy" not in policy.on or limit is None:
        return None
    bad = [
        found
        for found in seen.accuracies
        if found.upper < limit and f"accuracy:{found.manifest}" not in _caused(seen.runs)
    ]
    if not bad:
        return None
    return Start(
        "accuracy",
        "; ".join(
            f"accuracy {found.accuracy:.3f} (at most {found.upper:.3f}, {found.row_count} labels) of"
            f" {found.manifest[:12]} is below {limit:g}"
            for found in bad
        ),
        frozenset(f"accuracy:{found.manifest}" for found in bad),
        {"accuracies": [dict(found.evidence) for found in bad]},
    )


def _due_unix_ms(policy: Policy, seen: Seen) -> int | None:
    if "schedule" not in policy.on or policy.every_ms is None:
        return None
    last = max((run.started_unix_ms for run in seen.runs), default=seen.watched_unix_ms)
    return last + policy.every_ms


def _scheduled(policy: Policy, seen: Seen) -> Start:
    last = max((run.started_unix_ms for run in seen.runs), default=None)
    why = "the last run is long enough ago" if last is not None else "the first run is due"
    evidence = {"every_ms": policy.every_ms, "last_started_unix_ms": last}
    return Start("schedule", why, frozenset(), evidence)


def _caused(runs: Iterable[PastRun]) -> frozenset[str]:
    return frozenset().union(*(run.causes for run in runs))


def _held_back(policy: Policy, runs: Sequence[PastRun], now_unix_ms: int) -> tuple[int, str]:
    """Return until when nothing may start, and why."""
    ends = [run.ended_unix_ms for run in runs if run.ended_unix_ms is not None]
    cool = max(ends) + policy.cooldown_ms if ends else 0
    starts = sorted((run.started_unix_ms for run in runs), reverse=True)
    spent = 0
    if policy.budget_count == 0:
        spent = now_unix_ms + policy.budget_ms
    elif len(starts) >= policy.budget_count:
        spent = starts[policy.budget_count - 1] + policy.budget_ms
    if spent > cool:
        return spent, f"{policy.budget_count} runs in this span are the budget"
    return cool, "the last run has just ended"
