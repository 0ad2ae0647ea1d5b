"""Method B: power cuts of a real ext4 disk, at instants that nobody chose."""

import os

import pytest

from tests.spine.soundness import absent
from tests.storage.campaign import Campaign
from tests.storage.cuts import PER_DISK, Unavailable, cut_one_disk, cut_power

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(3600)]

SEED = int(os.environ.get("CUT_SEED", "1"))
COUNT = int(os.environ.get("CUTS", "300"))


def test_a_power_cut_tears_nothing_and_loses_nothing_acknowledged():
    try:
        assert next(cut_power(SEED, 1))["number"] == 0
    except Unavailable as exc:
        absent(f"power cuts: {exc}")
    seeds = range(SEED, SEED + COUNT // PER_DISK)
    print(f"seeds {seeds}, {PER_DISK} cuts of each")  # noqa: T201 - to cut there again
    campaign = Campaign()
    campaign.run(cut_one_disk, [(seed,) for seed in seeds])
    print(campaign.table())  # noqa: T201
    assert len(campaign.rows) == PER_DISK * len(seeds)
    assert not campaign.bad(), campaign.words()
