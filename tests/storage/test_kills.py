"""Method A: a kill at every system call by which a device changes its disk."""

import os

import numpy as np
import pytest

from tests.storage.campaign import Campaign
from tests.storage.kills import count_points, kill_at

pytestmark = [
    pytest.mark.usefixtures("can_trace"),
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]

SEED = int(os.environ.get("KILL_SEED", "1"))
CHAIN_COUNT = int(os.environ.get("KILL_CHAINS", "100"))
"""Of two or three kills, one in each life."""
EVERY = int(os.environ.get("KILL_EVERY", "1"))
"""Every call of a life is one to kill at, or every eighth with 8."""


def test_a_kill_at_every_call_of_a_scenario():
    """Install, update, roll back, remove, return, collect: each point once, then chains of kills."""
    count = count_points(SEED)
    chance = np.random.default_rng([SEED, 2])
    chains = [
        (
            int(chance.integers(1, 1000)),
            *map(int, chance.integers(1, count + 1, chance.integers(2, 4))),
        )
        for _ in range(CHAIN_COUNT)
    ]
    points = range(1, count + 1, EVERY)
    print(f"seed {SEED}: {len(points)} points, {CHAIN_COUNT} chains")  # noqa: T201 - to kill there again
    campaign = Campaign()
    campaign.run(kill_at, [*((SEED, point) for point in points), *chains])
    print(campaign.table())  # noqa: T201
    assert not campaign.bad(), campaign.words()
    hit = [call for row in campaign.rows for call in row["calls"]]
    # The threads race, so the last points of a sweep may lie beyond the end of a life.
    assert len(hit) >= 0.98 * len(points), f"only {len(hit)} kills hit"
    expected = {"pwrite64", "fdatasync", "fsync", "write", "openat to write"}
    if EVERY == 1:
        expected.add("ftruncate")  # there are six of them
    missed = expected - set(hit)
    assert not missed, f"no kill at {missed}: does the agent still write its disk?"


def test_a_kill_point_can_be_replayed():
    first, again = kill_at(SEED, 40), kill_at(SEED, 40)
    assert first["calls"] == again["calls"] == first["calls"][:1]
