"""The split: the same row is always in the same part, and the parts have their shares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fleet.pipeline.project import Split
from fleet.pipeline.split import _contents, buckets_of, folds_of, parts_of

SPLIT = Split()


def some_rows(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 4))


def split_rows(values, keys, split):
    return parts_of(buckets_of(values, keys), split)


def test_the_shares_are_kept_up_to_chance():
    count = 20_000
    parts = split_rows(some_rows(count), None, SPLIT)
    for number, share in enumerate(SPLIT.shares):
        deviation = (share * (1 - share) / count) ** 0.5
        assert abs(np.mean(parts == number) - share) < 5 * deviation


def test_order_and_company_of_a_row_do_not_matter():
    rows = some_rows(500)
    parts = split_rows(rows, None, SPLIT)
    order = np.random.default_rng(1).permutation(500)
    assert (split_rows(rows[order], None, SPLIT) == parts[order]).all()
    more = np.concatenate([rows, some_rows(300, seed=2)])
    assert (split_rows(more, None, SPLIT)[:500] == parts).all()


def test_it_is_this_split_for_ever():
    parts = split_rows(np.arange(24.0).reshape(12, 2), None, SPLIT)
    assert parts.tolist() == RECORDED


RECORDED = [0, 1, 0, 0, 2, 0, 0, 0, 0, 2, 2, 0]
"""What the first version gave: another split would move rows from training to test."""


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.int8, np.bool_])
def test_the_type_of_a_number_does_not_matter(kind):
    rows = np.arange(400).reshape(200, 2) % 100
    rows = rows.astype(kind)
    assert (split_rows(rows, None, SPLIT) == split_rows(rows.astype(float), None, SPLIT)).all()


def test_rows_of_one_key_stay_together():
    keys = np.repeat(np.array([f"k{n}" for n in range(200)]), 5)
    parts = split_rows(some_rows(1000), keys, SPLIT).reshape(200, 5)
    assert (parts == parts[:, :1]).all()
    assert set(parts[:, 0].tolist()) == {0, 1, 2}


def test_texts_are_told_apart_by_where_they_end():
    contents = list(_contents(np.array([["ab", "c"], ["a", "bc"]])))
    assert len(set(contents)) == 2
    many = np.array([[f"{n}", "x"] for n in range(3000)])
    assert abs(np.mean(split_rows(many, None, SPLIT) == 0) - 0.7) < 0.05


@given(arrays(np.float64, (3, 2), elements=st.floats(width=64)))
def test_no_number_is_without_a_part(rows):
    parts = split_rows(rows, None, SPLIT)
    assert set(parts.tolist()) <= {0, 1, 2}
    assert (split_rows(rows + 0.0, None, SPLIT) == parts).all()


def test_a_part_without_a_share_gets_nothing():
    parts = split_rows(some_rows(2000), None, Split(train=0.8, validation=0, test=0.2))
    assert set(parts.tolist()) == {0, 2}


@pytest.mark.parametrize("count", [2, 3, 10])
def test_folds_share_the_train_rows_evenly_and_a_row_stays_in_its_fold(count):
    def folds(rows, keys=None):
        buckets = buckets_of(rows, keys)
        return folds_of(buckets[parts_of(buckets, SPLIT) == 0], SPLIT, count)

    rows = some_rows(20_000)
    found = folds(rows)
    sizes = np.bincount(found, minlength=count)
    assert len(sizes) == count
    expected = len(found) / count
    assert (abs(sizes - expected) < 5 * expected**0.5).all()
    more = folds(np.concatenate([rows, some_rows(500, seed=2)]))
    assert (more[: len(found)] == found).all()
    keys = np.repeat(np.array([f"k{n}" for n in range(400)]), 50)
    by_key = folds(rows, keys).reshape(-1, 50)
    assert (by_key == by_key[:, :1]).all()
