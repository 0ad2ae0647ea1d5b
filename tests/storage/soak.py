"""Part of `make soak`: the storage harness at full counts, with a journal, and one table at the end.

A soak that was interrupted goes on where its journal ends; another journal is another soak.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from tests.storage.campaign import Campaign
from tests.storage.cuts import PER_DISK, cut_one_disk
from tests.storage.faults import CALLS, FAULTS, PARALLEL, fail_at
from tests.storage.kills import count_points, kill_at, undisturbed

SCENARIOS = 20
"""Scenarios whose every point is killed at, as far as the count goes."""


def kills(campaign, seed, count):
    """Kill `count` devices: at every point of scenario after scenario, a tenth in chains."""
    missing = count - campaign.count("kill")
    done = campaign.drawn("kill", "seed", "points")
    chance = np.random.default_rng(seed)
    for number in range(seed, seed + SCENARIOS):
        total = count_points(number)
        points = [(number, point) for point in range(1, total + 1)]
        points += [
            (number, *map(int, chance.integers(1, total + 1, 2))) for _ in range(total // 10)
        ]
        left = [p for p in points if (p[0], list(p[1:])) not in done][: max(0, missing)]
        missing -= len(left)
        campaign.run(kill_at, left)


def cuts(campaign, seed, count):
    """Cut the power `count` times."""
    first = seed + campaign.count("cut") // PER_DISK
    campaign.run(cut_one_disk, [(number,) for number in range(first, seed + count // PER_DISK)])


def faults(campaign, seed, count):
    """Let the disk fail at `count` points, for one call or a burst of them."""
    calls = undisturbed(seed, CALLS)
    first = campaign.count("fault")
    campaign.run(fail_at, [fault(seed, number, calls) for number in range(first, count)], PARALLEL)


def fault(seed, number, calls):
    """Return the arguments of the fault with this number: names cycle, the point is drawn.

    Every other one begins at a sync: there are few of them, and they are what is believed.

    Args:
        seed: Of the scenario and the draw.
        number: Of the fault.
        calls: Names of all calls of an undisturbed life.
    """
    chance = np.random.default_rng([seed, number])
    name = list(FAULTS)[number % len(FAULTS)]
    syncs = [i for i, call in enumerate(calls, 1) if call in ("fsync", "fdatasync")]
    point = chance.choice(syncs) if number % 2 else chance.integers(1, len(calls) + 1)
    return seed, name, int(point), int(chance.choice([1, 1, 2, 5]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--journal", type=Path, default=Path("build/soak/storage.jsonl"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=10_000)
    parser.add_argument("--cuts", type=int, default=10_000)
    parser.add_argument("--faults", type=int, default=2_000)
    args = parser.parse_args()
    args.journal.parent.mkdir(parents=True, exist_ok=True)
    campaign = Campaign(args.journal)
    print(f"journal {args.journal}: {len(campaign.rows)} points are done; seed {args.seed}")  # noqa: T201
    kills(campaign, args.seed, args.kills)
    if os.geteuid() == 0:
        cuts(campaign, args.seed, args.cuts)
    else:
        print("NOT TESTED: power cuts; only root may mount")  # noqa: T201
    faults(campaign, args.seed, args.faults)
    print(campaign.table())  # noqa: T201
    print(campaign.words())  # noqa: T201
    return 1 if campaign.bad() else 0


if __name__ == "__main__":
    sys.exit(main())
