"""What counts as the same answer, and what does not."""

import os
import subprocess
import sys

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from converter.parity import (
    ATOL,
    RTOL,
    SCALE_RTOL,
    TIE_MARGIN,
    OnnxModel,
    check_stable,
    compare,
    labels_differ,
    tie_margins,
)
from wire.errors import BundleError

NAN, INF = np.nan, np.inf
finite = st.floats(-1e6, 1e6, width=32)
tables = arrays.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=finite)


def column(*values):
    return np.array(values, np.float32).reshape(-1, 1)


@given(tables)
def test_everything_agrees_with_itself(table):
    result = compare("Y", table, table)
    assert result.is_within
    assert (result.max_abs, result.max_rel, result.flip_count) == (0.0, 0.0, 0)
    assert result.to_line() == "Y: all equal"


@given(tables, st.data())
def test_a_value_beyond_the_limits_is_found_with_its_row(table, data):
    row = data.draw(st.integers(0, len(table) - 1))
    col = data.draw(st.integers(0, table.shape[1] - 1))
    wide = table.astype(np.float64)
    limit = ATOL + RTOL * abs(wide[row, col]) + SCALE_RTOL * np.abs(wide[:, col]).max()
    wide[row, col] += 2 * limit
    result = compare("Y", table, wide)
    assert not result.is_within
    assert result.worst_row == row
    wide[row, col] -= 1.5 * limit
    assert compare("Y", table, wide).is_within


def test_a_large_column_does_not_excuse_a_small_one():
    original = np.array([[1e6, 0.01], [2e6, 0.02]])
    converted = original + np.array([[0, 0], [0, 0.01]])
    result = compare("Y", original, converted)
    assert not result.is_within
    assert result.worst_row == 1
    assert result.max_rel == pytest.approx(0.5)


def test_an_infinity_excuses_nothing_and_equals_itself():
    original = column(INF, 1.0, -INF, NAN)
    assert compare("Y", original, original).is_within
    assert compare("Y", original, original).max_abs == 0.0
    assert not compare("Y", original, column(INF, 9.0, -INF, NAN)).is_within
    for wrong in (column(-INF, 1, -INF, NAN), column(INF, 1, -INF, 0), column(INF, NAN, -INF, NAN)):
        result = compare("Y", original, wrong)
        assert not result.is_within
        assert result.max_abs == INF


@pytest.mark.parametrize(
    ("original", "converted"),
    [
        ([True, False], [1, 0]),
        ([1.0, 2.0], [1, 2]),
        ([1, 2], np.array([1, 2], np.int32)),
        (["a", "ü"], np.array(["a", "ü"], object)),
        ([-1, 1], [-1, 1]),
    ],
)
def test_equal_labels_of_other_types_are_equal(original, converted):
    result = compare("label", np.array(original), np.array(converted))
    assert result.is_label
    assert result.is_within
    assert result.to_line() == "label: all equal"


def test_labels_are_never_nearly_equal():
    result = compare("label", np.array([1.0, 1.00001, 2.5]), np.array([1, 1, 2]))
    assert (result.flip_count, result.is_within) == (2, False)
    assert not compare("label", np.array(["a"]), np.array([1.0])).is_within
    assert not compare("label", np.array(["1"]), np.array(["01"])).is_within
    big = np.array([2**60, 2**60 + 1])
    assert labels_differ(big, big[::-1]).all()


def test_labels_of_several_outputs_differ_by_row():
    original = np.array([[0, 1], [1, 1], [0, 0]])
    converted = np.array([[0, 1], [0, 0], [0, 0]])
    result = compare("label", original, converted)
    assert (result.flip_count, result.worst_row) == (1, 1)
    assert result.to_line() == "label: 1 of 3 rows differ"


def test_a_label_may_differ_at_a_tie_and_only_there():
    original, converted = np.array([0, 0, 1]), np.array([1, 0, 1])
    for margin, is_within in ((0.0, True), (TIE_MARGIN, True), (TIE_MARGIN * 1.01, False)):
        result = compare("label", original, converted, margins=np.array([margin, 1, 1]))
        assert result.is_within is is_within
        assert (result.tie_count, result.flip_count) == (int(is_within), int(not is_within))
    unknown = compare("label", original, converted, margins=np.array([NAN, 1, 1]))
    assert not unknown.is_within
    tied = compare("label", original, converted, margins=np.zeros(3))
    assert tied.to_line() == "label: all equal but 1 at a tie"


def test_the_clearest_of_the_wrong_labels_is_the_worst():
    margins = np.array([0.2, 0.9, 0.0, 0.3])
    result = compare("label", np.zeros(4), np.array([1, 0, 1, 1]), margins=margins)
    assert (result.flip_count, result.tie_count, result.worst_row) == (2, 1, 3)
    assert result.to_line() == "label: 2 of 4 rows differ, and 1 at a tie"


def test_another_shape_is_no_parity():
    result = compare("Y", np.zeros((3, 2)), np.zeros((3, 1)))
    assert (result.is_within, result.flip_count) == (False, 3)


def test_a_line_says_how_much_on_what():
    assert compare("p", column(0.5), column(0.5 + 1e-6)).to_line() == "p: off by at most 1e-06"
    line = compare("y", column(5000), column(5000.5)).to_line()
    assert line == "y: off by at most 0.5, on values up to 5e+03"


def test_what_is_written_is_plain():
    body = compare("p", column(1, 2), column(1, 2.5)).to_json()
    assert body == {
        "name": "p",
        "kind": "numbers",
        "max_abs": 0.5,
        "max_rel": 0.25,
        "flips": 0,
        "ties": 0,
        "worst_row": 1,
        "within": False,
    }


def test_margins_are_the_distance_of_the_best_from_the_next():
    scores = np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7], [1.0, 0.0, 0.0]])
    assert tie_margins(scores) == pytest.approx(np.array([0.0, 0.5, 1.0]) / 0.7)


def test_margins_of_distances_are_those_of_the_nearest():
    distances = np.array([[1.0, 1.0, 9.0], [2.0, 9.0, 9.0]])
    margins = tie_margins(distances, "smallest")
    assert margins[0] == 0.0
    assert margins[1] == pytest.approx(7 / 9)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_margins_of_a_sign_are_the_distance_from_zero(shape):
    scores = np.array([-0.2, 0.0, 0.1]).reshape(shape)
    assert tie_margins(scores, "sign") == pytest.approx([4 / 3, 0, 2 / 3])


@given(tables, st.sampled_from([1e-3, 1.0, 1e4]))
def test_margins_do_not_depend_on_the_unit(table, unit):
    wide = table.astype(np.float64)
    one, other = tie_margins(wide), tie_margins(wide * unit)
    assert one is other is None or np.allclose(one, other, atol=1e-9)


@pytest.mark.parametrize(
    ("scores", "choice"),
    [
        (np.zeros(3), "largest"),
        (np.zeros((3, 1)), "largest"),
        (np.zeros((3, 2, 2)), "largest"),
        (np.zeros((3, 2)), "sign"),
    ],
)
def test_there_are_no_margins_where_the_scores_cannot_tell(scores, choice):
    assert tie_margins(scores, choice) is None


def test_a_score_that_is_missing_is_never_clear_and_never_a_tie():
    margins = tie_margins(np.array([[NAN, 0.5], [INF, INF], [0.9, 0.1]]))
    assert not (margins[:2] > 0.01).any()
    assert not (margins[:2] <= TIE_MARGIN).any()
    assert margins[2] > 0.01


def test_an_answer_that_changes_is_not_stable():
    batch = column(*range(20))
    assert check_stable("Y", batch, batch.copy(), batch[:16]) is None
    assert "from one run to the next" in check_stable("Y", batch, batch + 1e-6, batch[:16])
    assert "other rows of the batch" in check_stable("Y", batch, batch, batch[:16] + 1)
    assert check_stable("Y", batch, batch, batch[:16] + 1e-6) is None
    missing = column(NAN, 1)
    assert check_stable("Y", missing, missing.copy(), missing) is None


def test_a_label_may_depend_on_the_batch_at_a_tie_alone():
    labels = np.array(["a", "b", "a"])
    other = np.array(["a", "a", "a"])
    clear, tied = np.ones(3), np.array([1.0, 0.0, 1.0])
    assert "other rows" in check_stable("label", labels, labels, other, margins=clear)
    assert check_stable("label", labels, labels, other, margins=tied) is None
    assert "next" in check_stable("label", labels, other, labels, margins=tied)


def test_onnxruntime_answers_by_name(tmp_path, doubling):
    (tmp_path / "m.onnx").write_bytes(doubling.SerializeToString())
    answers = OnnxModel(tmp_path / "m.onnx").run({"X": np.ones((2, 4), np.float32)})
    assert answers["Y"].tolist() == [[2.0] * 4] * 2


def test_a_model_that_does_not_load_is_refused_without_its_path(tmp_path, graph):
    model = graph([("Add", ["X", "X"], ["Y"], {"domain": "nobody"})])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="onnxruntime cannot load the model: ") as caught:
        OnnxModel(tmp_path / "m.onnx")
    assert caught.value.code == "model_invalid"
    assert str(tmp_path) not in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_model_that_does_not_run_is_refused(tmp_path, doubling):
    (tmp_path / "m.onnx").write_bytes(doubling.SerializeToString())
    with pytest.raises(BundleError, match="cannot run the model on the rows") as caught:
        OnnxModel(tmp_path / "m.onnx").run({"X": np.ones((2, 5), np.float32)})
    assert caught.value.code == "model_invalid"


def test_telemetry_is_off_before_onnxruntime_is_imported(tmp_path, doubling):
    (tmp_path / "m.onnx").write_bytes(doubling.SerializeToString())
    probe = (
        "import os, pathlib, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'onnxruntime': print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "from converter.parity import OnnxModel\n"
        "OnnxModel(pathlib.Path('m.onnx'))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "ORT_DISABLE_TELEMETRY")}
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["1"]
