"""Nothing that a device had is lost without a word, and nothing is stored twice.

20,000 records of the million that `make soak` sends the same way.
"""

import os

import pytest

from tests.outbox.soak import bad, table
from tests.outbox.stretch import live

COUNT = int(os.environ.get("OUTBOX_RECORDS", "20000"))
SEED = int(os.environ.get("OUTBOX_SEED", "1"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_records_over_a_bad_way_between_ends_that_are_killed():
    row = live(SEED, COUNT)
    print(f"seed {SEED}\n{table([row])}")  # noqa: T201 - to live it again
    assert not bad([row]), row
    # A record that was being made when its device was killed is nobody's loss.
    assert row["written"] >= COUNT - row["device_kills"]
    assert row["stored"] + row["dropped"] >= row["written"]
    assert row["stored"] > 0.6 * row["written"], "the way is bad, not hopeless"
    assert min(row["dropped"], row["gaps"], row["device_kills"], row["controller_kills"]) > 0


def test_a_stretch_can_be_lived_again():
    assert live(SEED, 500) == live(SEED, 500)
