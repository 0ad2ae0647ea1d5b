"""Drift of one column: false alarms and windows to the find, beside fixed rules.

Everything is simulated, seeded, and says so: no device takes part.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import drift_tail
import numpy as np
from drift_peers import Rules
from drift_streams import Stream, lengthened, move_of, no_history
from models import Models
from result import Line, Outcome

from fleet.core import drift
from fleet.core.drift import Kind, Level
from fleet.core.shift_test import TOLERANCE, statistic, tail
from wire.histogram import psi

DEVICES, COLUMNS, WINDOWS = 1000, 20, 2880
TESTS = DEVICES * COLUMNS * WINDOWS
ROWS, REFERENCE_ROWS = 500, 10_000
LEVEL = drift.chance_per_test(Level.DEVICE, DEVICES, COLUMNS)
CLAIMS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
NEVER = 40
"""Windows after which a search is given up; the median of a rule that finds less says this."""


def measure(_folder: Path, _models: Models, *, is_quick: bool) -> Outcome:
    """Return the comparison."""
    outcome = Outcome(
        title="Drift: false alarms, and windows to the find",
        how=(
            "Simulated, seeded: normal values, a reference of 10,000 rows, 500 rows a window of 15 minutes. "
            "*False alarms* are windows in alarm without any drift, for 1,000 devices with 20 columns over 30 days. "
            "Of the fixed rules they are counted, and multiplied; ours is rarer than can be counted, so it is the "
            "budget, 1, times the upper 95 % bound of how often a test is beyond its limit over how often it may be, "
            "the worst of all stretches, by importance sampling, for rows that are independent. *Windows to the find* "
            "follow a day without drift, on one device, at the same setting; 41 stands for not found in 40. "
            "Rules are written from their definitions: Evidently's for numbers and over 1,000 reference rows."
        ),
        why=(
            "A fixed threshold knows neither rows nor devices: what is right for 500 rows on one device is wrong for "
            "all others. The tests' own price is that it finds nothing below its tolerance, PSI 0.02, and that "
            "dependent rows count as what they are worth: with a lag-one correlation of 0.9, 500 of them as 26."
        ),
    )
    generator = np.random.default_rng(20)
    _false_alarms(outcome, generator, number=400 if is_quick else 4000)
    _plain(outcome, generator, draws=200_000 if is_quick else 2_000_000)
    for lag_one in (0.0, 0.5, 0.9):
        for share in (0.1, 0.25):
            _finds(outcome, generator, share, lag_one, runs=5 if is_quick else 15)
    return outcome


def _false_alarms(outcome: Outcome, generator: np.random.Generator, number: int) -> None:
    none, edge = _bounds(generator, draws=25 * number)
    outcome.notes.append(
        f"With every device shifted by just the tolerance the same bound is {edge:.2g} a month, the budget being 1."
    )
    for lag_one in (0.0, 0.9):
        counted = _counted(generator, lag_one, number)
        ours = [none] if not lag_one else [counted.pop("ours") * TESTS]
        counted.pop("ours", None)
        what = "false alarms a month" + (
            f", rows of lag-one correlation {lag_one}" if lag_one else ""
        )
        for name, share in counted.items():
            outcome.lines.append(Line(what, "windows", ours, name, [share * TESTS]))
    outcome.notes.append(
        f"Of dependent rows {number:,} windows were judged by ours: counting alone says no more than the upper 95 % "
        f"bound {3 / number * TESTS:,.0f} a month where it saw none; `make soak` judges more."
    )


def _bounds(generator: np.random.Generator, draws: int) -> tuple[float, float]:
    """Return the budget times the worst upper bound over the stretches: without any shift, and
    with every device just at the tolerance, all of it in one bin."""
    none, edge = (
        max(
            drift_tail.tails(
                generator,
                np.full(10, 0.1),
                reference_rows=REFERENCE_ROWS,
                rows=ROWS * windows,
                claims=(LEVEL,),
                draws=draws,
                toward=toward,
            )[0].upper
            for windows in drift.SCALES
        )
        for toward in (None, np.eye(10)[0])
    )
    return none, edge


def _counted(generator: np.random.Generator, lag_one: float, number: int) -> dict[str, float]:
    """Return by rule the share of windows without drift that are in alarm."""
    in_alarm: dict[str, int] = {}
    per_stream = 200
    for _ in range(number // per_stream):
        device = _Device(generator, lag_one)
        for _ in range(per_stream):
            for name, is_drifted in device.next_window(0.0, with_ours=bool(lag_one)).items():
                in_alarm[name] = in_alarm.get(name, 0) + is_drifted
    return {name: total / number for name, total in in_alarm.items()}


def _plain(outcome: Outcome, generator: np.random.Generator, draws: int) -> None:
    """Add the measured tail of plainly drawn windows, where it can be counted."""
    found: dict[float, list[np.ndarray[Any, Any]]] = {0.0: [], TOLERANCE: []}
    limits = {t: [_limit(claim, t) for claim in CLAIMS] for t in found}
    over = np.zeros(3)
    for _ in range(draws // 100_000):
        truth = generator.dirichlet(np.full(10, REFERENCE_ROWS / 10), size=100_000)
        counts = generator.multinomial(ROWS, truth).astype(float)
        values = statistic(np.full(10, 0.1), counts, float(REFERENCE_ROWS), float(ROWS))
        indices = psi(np.full(10, 0.1), counts)
        over += [(indices >= limit).sum() for limit in (0.1, 0.2, 0.25)]
        for tolerance, each in found.items():
            each.append(np.array([(values >= limit).sum() for limit in limits[tolerance]]))
    monthly = ", ".join(f"{share * TESTS / draws:,.0f}" for share in over)
    outcome.notes.append(
        f"Of {draws:,} windows of independent rows without drift PSI is at least 0.1, 0.2, 0.25 in "
        f"{', '.join(f'{number:.0f}' for number in over)}: {monthly} false alarms a month."
    )
    for tolerance, each in found.items():
        shares = np.sum(each, axis=0) / draws
        words = ", ".join(f"{c:g}: {share:.2g}" for c, share in zip(CLAIMS, shares, strict=True))
        name = f"the tolerance {tolerance}" if tolerance else "no tolerance"
        outcome.notes.append(
            f"Of {draws:,} windows without drift, claimed and seen with {name}: {words}."
        )


def _limit(claim: float, tolerance: float) -> float:
    shift = tolerance / (1 / REFERENCE_ROWS + 1 / ROWS)
    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle, 9, shift) > claim else (low, middle)
    return high


def _finds(
    outcome: Outcome, generator: np.random.Generator, share: float, lag_one: float, runs: int
) -> None:
    first: dict[str, list[float]] = {}
    for _ in range(runs):
        device = _Device(generator, lag_one)
        for _ in range(drift.HISTORY):
            device.next_window(0.0, with_ours=True, with_rules=False)
        for name, number in _search(device, move_of(share)).items():
            first.setdefault(name, []).append(number)
    ours = first.pop("ours")
    what = f"windows to find PSI {share}" + (f", lag-one {lag_one}" if lag_one else "")
    for name, others in first.items():
        outcome.lines.append(Line(what, "median", [median(ours)], name, [median(others)]))


def _search(device: _Device, move: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for number in range(1, NEVER + 1):
        for name, is_drifted in device.next_window(move, with_ours=True).items():
            if is_drifted:
                found.setdefault(name, number)
        if "ours" in found and len(found) == 6:
            break
    names = ("ours", *device.rules)
    return {name: found.get(name, NEVER + 1) for name in names}


class _Device:
    """One column of one device, judged by every rule."""

    def __init__(self, generator: np.random.Generator, lag_one: float) -> None:
        self._stream = Stream(generator, lag_one=lag_one, reference_rows=REFERENCE_ROWS)
        self.rules = Rules(self._stream.reference_values).all()
        self._history = no_history(len(self._stream.reference.counts))

    def next_window(
        self, move: float, *, with_ours: bool, with_rules: bool = True
    ) -> dict[str, bool]:
        values = self._stream.values(ROWS, move)
        verdicts = {name: rule(values) for name, rule in self.rules.items() if with_rules}
        if with_ours:
            self._history = lengthened(self._history, self._stream.window_of(values))
            if with_rules:
                verdict = drift.judge(self._stream.reference, self._history, LEVEL)
                verdicts["ours"] = verdict.kind is Kind.DRIFTED
        return verdicts
