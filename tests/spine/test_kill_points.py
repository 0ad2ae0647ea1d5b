"""The whole agent, killed at a system call that a seed draws, with a real broker and controller.

Each point is one rollout on one device: of a good release, which is confirmed and whose predecessor's
predecessor is collected, or of a bad one, which is rolled back. First an undisturbed rollout of each is
counted: what each thread of the supervisor calls, and how often. A point draws a thread, a call and its
number from that, is killed there, and is started again at once, as systemd would. Every fourth is killed
once more while it starts.

    make soak                            as many points as fit an hour; a run that was cut goes on
    KILL_SEED=5 KILL_POINTS=17 …         point 17 of seed 5, drawn from what is counted now
    KILL_EXACTLY=bad,loop,fdatasync,7 …  the point that was printed so
"""

import itertools
import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.spine.claims import check_answers, check_end, check_records, check_serving
from tests.spine.kills import (
    THREADS,
    Point,
    Tracer,
    calls,
    counted_start,
    counting,
    drawn,
    injection,
    killed_start,
    let_go,
    require_strace,
    thread_ids,
)
from tests.spine.models import LIMIT
from tests.spine.processes import until

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(7200)]

DEVICE = "cam-0"
SEED = int(os.environ.get("KILL_SEED", "4"))
POINTS = os.environ.get("KILL_POINTS", "0-39")
MINUTES = float(os.environ.get("KILL_MINUTES", "inf"))
EXACTLY = os.environ.get("KILL_EXACTLY")
JOURNAL = os.environ.get("KILL_JOURNAL")
MAGAZINE = 40
"""Points on one bed: what the API gives of a device's records at once has to hold them all."""
GOOD = ("1.0.0", "2.0.0", "3.0.0")
"""Three, so that what is rolled out next is neither active nor the fallback, and was collected."""
TELEMETRY_S = 5


@dataclass
class Shot:
    """What came of a point.

    `restore_s` is the longest wait from a start to a good answer; `torn` says what was served instead
    of the old or the new release.
    """

    index: int
    point: str
    is_reached: bool
    kill_count: int
    end: str
    restore_s: float
    torn: str = ""


def wanted():
    """Return the indices that KILL_POINTS asks for: numbers and ranges, such as `7` or `0-39,50`."""
    found = []
    for part in POINTS.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def journal():
    """Return the shots of this seed that an earlier run has written down."""
    if JOURNAL is None or not Path(JOURNAL).exists():
        return []
    rows = [json.loads(line) for line in Path(JOURNAL).read_text().splitlines()]
    return [Shot(**row["shot"]) for row in rows if row["seed"] == SEED]


class Range:
    """A bed with one device, on which one point after the other is shot at."""

    def __init__(self, bed, bundles, indices, folder):
        self._bed = bed
        self._folder = folder
        self._goods = itertools.cycle(GOOD)
        self._serves = None
        self._kills_in_a_row = 0
        self._kill_count = 0
        self._maker = ThreadPoolExecutor(1)
        bads = [f"4.0.{index}-fragile" for index in range(1, 2 + sum(i % 2 for i in indices))]
        self._bads = iter(bads)
        # Each takes two seconds to convert, in which a point can be shot at.
        self._made = {v: self._maker.submit(bundles.path, v) for v in (*GOOD, *bads)}
        bed.add(DEVICE, telemetry_s=TELEMETRY_S)
        self._device = bed.devices[DEVICE]
        self._device.client.feature = 8.0 * LIMIT * MAGAZINE  # no fragile one has a place for it
        for version in GOOD:
            self._push(version)
        self.counts = self._count()

    def close(self):
        self._maker.shutdown(cancel_futures=True)

    def shoot(self, point):
        """Kill at a point and see everything through to its end."""
        if self._kills_in_a_row > 1:
            # An orderly stop between: after more kills in a row it would wait before it connects.
            self._device.end()
            self._device.start()
            self._bed.until_online(DEVICE)
            self._kills_in_a_row = 0
        is_bad, before = point.is_bad, self._serves
        version = self._next(is_bad)
        log = self._folder / "shot.log"
        tracer = Tracer(*injection(point.call, point.number, log))
        tids = thread_ids(self._device.pid)
        tracer.attach(tids[point.thread])
        restore_s, kill_count, torn = 0.0, 0, ""
        try:
            rollout = self._bed.roll_out(version, min_s=0.5)
            until(
                f"{point} is reached, or its rollout ends",
                lambda: not self._device.is_alive or self._is_over(rollout),
            )
        finally:
            tracer.detach()
        if calls(log)[point.call] >= point.number:
            # The last call of a rollout: the kill was sent when the rollout was seen to be over.
            until(f"{point}: the agent is dead", lambda: not self._device.is_alive)
        if not self._device.is_alive:
            kill_count, restore_s, torn = self._start_again(point, {before, version})
        self._kills_in_a_row += kill_count
        self._kill_count += kill_count
        end = self._bed.until_ended(rollout)
        self._check_end(rollout, end, version, is_bad=is_bad)
        return Shot(
            point.index, str(point), bool(kill_count), kill_count, end["state"], restore_s, torn
        )

    def check(self):
        """End everything well; return how many records there are, and what is lost or double."""
        if self._kill_count:
            self._bed.until("the restarts are reported", lambda: self._restarts_reported() > 0)
        assert self._restarts_reported() <= self._kill_count, "an orderly stop was counted"
        lost = ""
        try:
            check_records(self._bed)
        except AssertionError as exc:
            lost = str(exc)
        record_count = len(self._bed.stored())
        check_answers(self._bed)
        check_end(self._bed)
        return record_count, lost

    def _count(self):
        """Roll out one good and one bad release, undisturbed, and start once; return the calls."""
        self._roll_out(GOOD[0])
        self._roll_out(GOOD[1])
        self._goods = itertools.islice(itertools.cycle(GOOD), 2, None)
        counts = {}
        for kind, is_bad in (("good", False), ("bad", True)):
            with counting(self._device.pid, self._folder) as counts[kind]:
                self._roll_out(self._next(is_bad), is_bad=is_bad)
        log = self._folder / "start.log"
        self._device.end()
        self._device.start(counted_start(log))
        self._bed.until_served(DEVICE, self._serves)
        self._bed.until_online(DEVICE)
        counts["start"] = Counter({("loop", call): n for call, n in calls(log).items()})
        self._device.end()
        self._device.start()
        self._bed.until_online(DEVICE)
        return counts

    def _roll_out(self, version, *, is_bad=False):
        rollout = self._bed.roll_out(version, min_s=0.5)
        self._check_end(rollout, self._bed.until_ended(rollout), version, is_bad=is_bad)

    def _check_end(self, rollout, end, version, *, is_bad):
        """The rollout ended as its release deserves, and the device serves what it should."""
        member = self._bed.members(rollout)[DEVICE]
        if is_bad:
            assert (end["state"], member["state"]) == ("halted", "rolled_back"), (end, member)
            assert member["code"] == "error_ratio", member
        else:
            assert (end["state"], member["state"]) == ("finished", "confirmed"), (end, member)
            self._serves = version
        check_serving(self._bed, {DEVICE: self._serves})

    def _start_again(self, point, good):
        """Start what was killed, twice if the point says so; return kills, wait and what is torn."""
        kill_count = 1
        if point.again is not None:
            self._device.end()
            self._device.start(killed_start(*point.again))
            until(
                f"{point}: the start is killed, or serves",
                lambda: not self._device.is_alive or self._device.ask().status == 200,
            )
            if self._device.is_alive:
                let_go(self._device.pid)
        begun_s = time.monotonic()
        if not self._device.is_alive:
            kill_count += point.again is not None
            self._device.end()
            self._device.start()

        def answer():
            found = self._device.ask()
            return found if found.status == 200 else None

        first = until(f"{point}: it serves again", answer)
        restore_s = time.monotonic() - begun_s
        torn = "" if first.version in good else f"{first} is neither old nor new: {good}"
        return kill_count, restore_s, torn

    def _restarts_reported(self):
        vitals = [row for _, row in self._bed.stored() if row["channel"] == "telemetry/vitals"]
        return max((row["body"]["agent_restarts"] for row in vitals), default=0)

    def _is_over(self, rollout):
        return self._bed.rollout(rollout)["state"] not in ("running", "paused")

    def _next(self, is_bad):
        if not is_bad:
            return next(self._goods)
        version = next(self._bads)
        self._push(version)
        return version

    def _push(self, version):
        self._made[version].result()
        self._bed.push(version)


def report(shots, checks, seconds):
    """Print what was done, one table; `checks` are record counts and losses of the beds."""
    reached = [shot for shot in shots if shot.is_reached]
    worst = max((shot.restore_s for shot in shots), default=0.0)
    print(  # noqa: T201 - the record of a run
        f"\nseed {SEED}: {len(shots)} points, {len(reached)} reached, "
        f"{sum(shot.kill_count for shot in shots)} kills, torn {sum(bool(s.torn) for s in shots)}, "
        f"lost {'; '.join(lost for _, lost in checks if lost) or 0} "
        f"of {sum(count for count, _ in checks)} records, "
        f"worst restore {worst:.2f} s, {seconds:.0f} s in all"
    )


def test_killed_at_any_system_call_it_serves_and_comes_to_the_right_end(
    make_bed, bundles, tmp_path
):
    require_strace()
    shots, checks, begun_s = journal(), [], time.monotonic()
    done = {shot.index for shot in shots}
    left = (
        [int(EXACTLY.startswith("bad"))]
        if EXACTLY
        else [index for index in wanted() if index not in done]
    )
    while left and time.monotonic() - begun_s < 60 * MINUTES:
        indices, left = left[:MAGAZINE], left[MAGAZINE:]
        bed = make_bed("mosquitto")
        field = Range(bed, bundles, indices, tmp_path)
        for kind, seen in field.counts.items():
            print(kind, {f"{t}:{c}": n for (t, c), n in sorted(seen.items())})  # noqa: T201
        assert {thread for thread, _ in field.counts["good"]} >= set(THREADS) - {
            "keeper",
            "renewal",
        }
        here = []
        for index in indices:
            point = Point.exactly(EXACTLY) if EXACTLY else drawn(SEED, index, field.counts)
            print(f"seed {SEED} point {index}: {point}", end="", flush=True)  # noqa: T201 - to fire it again
            shot_s = time.monotonic()
            here.append(field.shoot(point))
            print(  # noqa: T201
                f": {here[-1].kill_count} kills, {here[-1].end}, {time.monotonic() - shot_s:.1f} s",
                flush=True,
            )
        field.close()
        checks.append(field.check())
        shots += here
        if JOURNAL is not None:
            rows = [json.dumps({"seed": SEED, "shot": asdict(shot)}) + "\n" for shot in here]
            Path(JOURNAL).parent.mkdir(parents=True, exist_ok=True)
            with Path(JOURNAL).open("a") as file:
                file.writelines(rows)
    report(shots, checks, time.monotonic() - begun_s)
    assert not [(shot.point, shot.torn) for shot in shots if shot.torn]
    assert not [lost for _, lost in checks if lost]
    assert sum(shot.is_reached for shot in shots) >= len(shots) / 2, "too few points were reached"
