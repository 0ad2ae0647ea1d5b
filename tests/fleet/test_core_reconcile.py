from __future__ import annotations

import pytest

from fleet.core.reconcile import (
    MAX_GENERATION_LEAD,
    Remedy,
    Rollback,
    desired_message,
    next_generation,
    previous_of,
    remedy,
    rollback_of,
)
from fleet.core.states import ReleaseKey
from wire import messages as m

V1, V2, V3 = (ReleaseKey(f"{n}.0.0", str(n) * 64) for n in (1, 2, 3))


@pytest.mark.parametrize(
    ("desired", "reported", "expected"),
    [
        (0, 0, Remedy.NOTHING),
        (0, 7, Remedy.NOTHING),  # a lost store must not strip devices of their models
        (3, 3, Remedy.NOTHING),
        (3, 2, Remedy.REPUBLISH),
        (3, 0, Remedy.REPUBLISH),
        (3, 5, Remedy.RENUMBER),
    ],
)
def test_a_report_calls_for(desired: int, reported: int, expected: Remedy) -> None:
    assert remedy(desired_generation=desired, reported_generation=reported) is expected


def test_a_new_generation_is_above_all_that_the_device_has_seen() -> None:
    assert next_generation(desired_generation=3, reported_generation=9) == 10
    assert next_generation(desired_generation=9, reported_generation=3) == 10


@pytest.mark.parametrize("claimed", [4 + MAX_GENERATION_LEAD, m.MAX_INTEGER])
def test_a_number_that_cannot_be_does_not_take_ours_to_the_end(claimed: int) -> None:
    """A device that lies, or one that a thief of the director's key has commanded."""
    assert next_generation(desired_generation=3, reported_generation=claimed) == 4
    assert remedy(desired_generation=3, reported_generation=claimed) is Remedy.NOTHING


def test_the_last_number_can_be_sent() -> None:
    last = next_generation(desired_generation=m.MAX_INTEGER, reported_generation=0)
    assert desired_message("cam-01", last, []).generation == m.MAX_INTEGER


def test_the_desired_state_does_not_depend_on_the_order_of_models() -> None:
    models = [
        m.DesiredModel(name=name, version="1", manifest="a" * 64, index="b" * 64)
        for name in ("zebra", "ant")
    ]
    assert desired_message("d", 1, models) == desired_message("d", 1, models[::-1])


@pytest.mark.parametrize(
    ("present", "confirmed", "quarantined", "to"),
    [
        (V3, [V3, V2, V1], [], V2),
        (V3, [V3, V2, V1], [V2], V1),  # quarantined ones are skipped
        (V2, [V3, V2, V1], [], V1),  # before the present one, not merely another one
        (V3, [V2, V1], [], V2),  # the present one is not confirmed yet
        (V1, [V1], [], None),
        (V2, [V2, V1], [V1], None),
        (V2, [V2, V1, V2], [], V1),  # never itself
        (None, [V1], [], None),
    ],
)
def test_a_rollback_goes_to_the_release_confirmed_before(
    present: ReleaseKey | None,
    confirmed: list[ReleaseKey],
    quarantined: list[ReleaseKey],
    to: ReleaseKey | None,
) -> None:
    result = rollback_of(
        present=present.manifest if present else None,
        confirmed=confirmed,
        quarantined=[q.manifest for q in quarantined],
    )
    assert result.release == to
    assert bool(result.reason) == (to is None)
    assert isinstance(result, Rollback)


def test_a_halt_returns_to_the_newest_good_release_that_is_not_the_target() -> None:
    assert previous_of(target=V2.manifest, confirmed=[V2, V3, V1], quarantined=[]) == V3
    assert previous_of(target=V2.manifest, confirmed=[V3, V1], quarantined=[V3.manifest]) == V1
    assert previous_of(target=V2.manifest, confirmed=[], quarantined=[]) is None
