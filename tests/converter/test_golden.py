"""Golden rows: enough of them, spread, never near a tie, and the same bytes every time."""

import zipfile

import numpy as np
import pytest

from converter import golden
from converter.golden import MAX_BYTES, MAX_ROWS, MIN_ROWS, SAFE_MARGIN, choose_rows, encode
from wire.errors import BundleError


def refuse(*arguments, says):
    with pytest.raises(BundleError, match=says) as caught:
        choose_rows(*arguments)
    assert caught.value.code == "data_invalid"


@pytest.mark.parametrize(("rows", "count"), [(64, 64), (100, 100), (256, 256), (100_000, 256)])
def test_64_to_256_rows_are_taken_from_everywhere(rows, count):
    chosen = choose_rows(rows, 1, None)
    assert len(chosen) == len(set(chosen.tolist())) == count
    assert (chosen[0], chosen[-1]) == (0, rows - 1)
    assert np.diff(chosen).max() <= -(-rows // (count - 1))


def test_no_row_near_a_tie_is_taken_however_few_are_left():
    margins = np.zeros(1000)
    margins[::10] = SAFE_MARGIN * 1.1
    margins[5::10] = SAFE_MARGIN
    margins[7::10] = np.nan
    chosen = choose_rows(1000, 1, margins)
    assert len(chosen) == 100
    assert set(chosen % 10) == {0}


def test_too_few_rows_are_refused():
    refuse(63, 1, None, says="--data has 63 rows; devices test themselves with 64 or more")
    margins = np.ones(100)
    margins[:37] = 0
    refuse(100, 1, margins, says="--data has 100 rows, of which 37 are too near a tie")
    assert len(choose_rows(100, 1, np.where(np.arange(100) < 36, 0.0, 1.0))) == MIN_ROWS


def test_wide_rows_are_fewer_and_too_wide_ones_are_refused():
    assert len(choose_rows(1000, MAX_BYTES // 100, None)) == 100
    assert len(choose_rows(1000, MAX_BYTES // MIN_ROWS, None)) == MIN_ROWS
    refuse(1000, MAX_BYTES // MIN_ROWS + 1, None, says="golden rows would be over 64 MB")


def test_it_is_no_larger_than_devices_read():
    selftest = pytest.importorskip("agent.runtime.selftest")
    rows = np.zeros((1000, 60_000), np.float32)
    chosen = choose_rows(1000, rows[0].nbytes, None)
    assert rows[chosen].nbytes <= selftest.MAX_GOLDEN_BYTES == MAX_BYTES
    assert len(chosen) == MAX_ROWS


def test_rows_answers_and_tolerances_are_read_back_without_pickle(load_npz):
    rows = np.array([["a", "ü"], ["b", "long"]], object)
    label = np.array(["yes", "no"], object)
    score = np.array([[0.5, np.nan], [-2000.0, np.inf]], np.float32)
    found = load_npz(encode([rows], [label, score]))
    assert sorted(found) == [
        "input_0", "output_0", "output_0_atol", "output_0_rtol",
        "output_1", "output_1_atol", "output_1_rtol",
    ]  # fmt: skip
    assert np.array_equal(found["input_0"], rows)
    assert np.array_equal(found["output_0"], label)
    assert np.array_equal(found["output_1"], score, equal_nan=True)
    assert (found["output_0_atol"], found["output_0_rtol"]) == (0, 0)
    assert found["output_1_rtol"] == golden.RTOL
    assert found["output_1_atol"] == pytest.approx(golden.ATOL + 2000 * golden.SCALE_ATOL)


def test_the_bytes_depend_on_nothing_but_the_arrays(tmp_path):
    made = [encode([np.arange(6.0).reshape(2, 3)], [np.arange(2)]) for _ in range(2)]
    assert made[0] == made[1]
    assert encode([np.arange(6.0).reshape(2, 3)], [np.arange(2) + 1]) != made[0]
    (tmp_path / "g.npz").write_bytes(made[0])
    with zipfile.ZipFile(tmp_path / "g.npz") as archive:
        assert archive.testzip() is None
        for member in archive.infolist():
            assert member.date_time == (1980, 1, 1, 0, 0, 0)
            assert member.external_attr >> 16 == 0o644
