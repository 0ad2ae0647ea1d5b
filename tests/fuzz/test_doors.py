"""At every door: no error but its own, no endless work, and what is accepted is read again as the same.

`FUZZ_EXAMPLES` is how many payloads are tried in all, `FUZZ_SEED` which; a failure prints how to try the one
payload again.
"""

import os
import secrets
import shlex
import zlib
from random import Random  # noqa: TID251 - seeded, and the seed is printed

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.door import try_door
from tests.fuzz.mutation import EDITS, MAX_EDITS, MAX_SPAN, Edit, mutated
from tests.fuzz.table import all_doors

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2000"))
SEED = int(os.environ.get("FUZZ_SEED") or secrets.randbelow(10**9))
SAMPLE_COUNT = 24
LEAST_ACCEPTED = 0.25
"""Of samples as they are. Below, the mutants of them would say little."""

DOORS = all_doors()
SHARE = EXAMPLES / sum(door.weight for door in DOORS.values())
plans = st.lists(
    st.builds(
        Edit,
        st.integers(0, len(EDITS) - 1),
        st.integers(0, MAX_SPAN - 1),
        st.integers(0, MAX_SPAN - 1),
    ),
    max_size=MAX_EDITS,
)


def samples(door):
    chance = Random(SEED + zlib.crc32(door.name.encode()))
    return [door.sample(chance) for _ in range(SAMPLE_COUNT)]


def tried(door, payload):
    try:
        return try_door(door, payload)
    except BaseException as exc:
        again = f"python -m tests.fuzz.again {shlex.quote(door.name)} {payload.hex() or repr('')}"
        exc.add_note(f"payload: {payload[:300]!r}\nFUZZ_SEED={SEED}; this payload again: {again}")
        raise


@pytest.mark.parametrize("name", DOORS)
def test_what_the_other_side_writes_is_accepted(name):
    payloads = samples(DOORS[name])
    accepted = [payload for payload in payloads if tried(DOORS[name], payload)]
    assert len(accepted) >= LEAST_ACCEPTED * len(payloads), f"FUZZ_SEED={SEED}"


@pytest.mark.parametrize("name", DOORS)
def test_every_mutant_is_accepted_or_refused_and_nothing_else(name):
    door = DOORS[name]
    pool = samples(door)

    @seed(SEED)
    @settings(
        max_examples=max(10, int(SHARE * door.weight)),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(pool) | st.binary(max_size=40), plans, st.booleans())
    def holds(payload, plan, is_repaired):
        is_repaired = is_repaired and door.repaired is not None
        payload = mutated(payload, plan, in_place=is_repaired)
        if is_repaired:
            payload = door.repaired(payload)
        tried(door, payload)

    holds()
