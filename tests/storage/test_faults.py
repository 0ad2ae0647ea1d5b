"""Method C: a disk that fails for a while, with each error, at calls all over a device's life."""

import os

import pytest

from tests.storage.campaign import Campaign
from tests.storage.faults import CALLS, PARALLEL, fail_at
from tests.storage.kills import undisturbed
from tests.storage.soak import fault

pytestmark = [
    pytest.mark.usefixtures("can_trace"),
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]

SEED = int(os.environ.get("FAULT_SEED", "1"))
COUNT = int(os.environ.get("FAULTS", "150"))
LAST_READS = 32
"""Of two models that were confirmed: as the runtime starts anew, because another was removed, and as
what nothing needs any more is deleted."""


def test_a_device_lives_through_a_disk_that_fails_for_a_while():
    calls = undisturbed(SEED, CALLS)
    print(f"seed {SEED}: {COUNT} faults within {len(calls)} calls")  # noqa: T201 - to draw them again
    campaign = Campaign()
    campaign.run(fail_at, [fault(SEED, number, calls) for number in range(COUNT)], PARALLEL)
    print(campaign.table())  # noqa: T201
    assert not campaign.bad(), campaign.words()
    hit = [row for row in campaign.rows if row["calls"]]
    assert len(hit) > COUNT / 3, f"only {len(hit)} faults were met"
    codes = {code for row in hit for code, _ in row["refusals"]}
    assert codes <= {"state_unwritable", "state_unreadable", "storage_error", "disk_full"}, codes


def test_a_model_that_cannot_be_read_once_lasts():
    calls = undisturbed(SEED, CALLS)
    reads = [number for number, name in enumerate(calls, 1) if name == "read"][-LAST_READS:]
    campaign = Campaign()
    campaign.run(fail_at, [(SEED, "EIO", number, 1) for number in reads], PARALLEL)
    assert not campaign.bad(), campaign.words()
    assert sum(row["calls"] == ["read"] for row in campaign.rows) > LAST_READS / 2
