"""Which rows a runtime tells of, in what form, within which bounds; and that it tells of none unless it has rules."""

import socket

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import control, measured
from agent.adapters.child_process import Child
from agent.adapters.conduct import Conduct
from agent.core.captured import CaptureRules, pack
from agent.ports import ServedModel
from agent.runtime import capture as capture_module
from agent.runtime.capture import RowCapture, _Model
from agent.runtime.oip import Request
from fleet.capture.packs import read_pack
from tests.agent.captured import MANIFEST
from wire.manifest import TensorSpec

X = TensorSpec(name="X", datatype="FP32", shape=(-1, 3), feature_names=("age", "weight", "height"))
WORDS = TensorSpec(name="words", datatype="BYTES", shape=(-1, 2))
COUNTS = TensorSpec(name="counts", datatype="INT64", shape=(-1, 2))
LABEL = TensorSpec(name="label", datatype="INT64", shape=(-1,))
TABLE = TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 2))


def chooser(rules, *specs, seed=1):
    made = RowCapture(rules, {}, np.random.default_rng(seed))
    made._models = {"digits": _Model(specs or (X,), TABLE.name, rules.leave_out)}
    return made


def request(feeds, outputs=(LABEL, TABLE), id_="r-1"):
    return Request(feeds, outputs, len(next(iter(feeds.values()))), id_)


def answers(n_rows, tops):
    tops = np.broadcast_to(np.float32(tops), (n_rows,))
    return [np.arange(n_rows), np.stack([tops, 1 - tops], 1)]


def rows_of(captured, models=("digits",)):
    """Return the rows as the supervisor has them, after a way over the channel."""
    served = tuple(ServedModel(name, "1.0.0", MANIFEST, {}) for name in models)
    child = Child(1, served, auto_promote=True, timeout_s=1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        control.send(theirs, captured)
        report, _ = control.receive_report(ours)
    return child.captured(report)


def read(rows):
    return read_pack(pack(rows, "c-1", "digits", is_all=True).body).groups


def test_all_rows_come_as_they_were_asked_and_answered():
    made = chooser(CaptureRules(1.0, 0.0))
    x = np.float32([[1, 2, 3], [4, 5, np.nan]])
    made.take("digits", request({"X": x}), answers(2, [0.75, 0.5]))
    rows = rows_of(made.close())
    assert [row.score for row in rows] == [0.75, 0.5]
    (group,) = read(rows)
    assert np.array_equal(group.inputs["X"], x, equal_nan=True)
    assert group.outputs["label"].tolist() == [0, 1]
    assert group.outputs["probabilities"].tolist() == [[0.75, 0.25], [0.5, 0.5]]
    assert group.ids.tolist() == ["r-1", "r-1"]
    assert made.close() is None


def test_uncertain_rows_are_kept_and_others_are_sampled():
    made = chooser(CaptureRules(0.0, 0.6))
    tops = [0.9, 0.55, 0.6, 0.51]
    made.take("digits", request({"X": np.eye(4, 3, dtype=np.float32)}), answers(4, tops))
    made.take("digits", request({"X": np.zeros((1, 3), np.float32)}), answers(1, 0.59))
    made.take("digits", request({"X": np.zeros((1, 3), np.float32)}), answers(1, 0.61))
    assert [round(row.score, 2) for row in rows_of(made.close())] == [0.55, 0.51, 0.59]
    sampled = chooser(CaptureRules(0.1, 0.0))
    sampled.take("digits", request({"X": np.zeros((400, 3), np.float32)}), answers(400, 0.9))
    for _ in range(400):
        sampled.take("digits", request({"X": np.zeros((1, 3), np.float32)}), answers(1, 0.9))
    told = sampled.close()
    count = sum(len(part.scores) for part in told.requests) + told.dropped_count
    assert 50 <= count <= 110, "of 800 rows a tenth, four standard deviations at most aside"


def test_without_probabilities_nothing_is_uncertain():
    made = chooser(CaptureRules(0.0, 1.0))
    asked = request({"X": np.zeros((5, 3), np.float32)}, outputs=(LABEL,))
    made.take("digits", asked, answers(5, 0.1)[:1])
    assert made.close() is None


@pytest.mark.parametrize("names", [("weight",), ("X",)])
def test_what_is_left_out_never_leaves_the_runtime(names):
    made = chooser(CaptureRules(1.0, 0.0, names))
    x = np.float32([[1, 77, 3]])
    made.take("digits", request({"X": x}), answers(1, 0.9))
    told = made.close()
    assert told.requests[0].left_out == names
    assert np.float32(77).tobytes() not in told.requests[0].tensors[0].data
    (group,) = read(rows_of(told))
    kept = [[1, np.nan, 3]] if names == ("weight",) else [[np.nan] * 3]
    assert np.array_equal(group.inputs["X"], kept, equal_nan=True)
    assert x[0, 1] == 77, "the request itself is as it was"


def test_texts_and_numbers_without_a_nan_are_left_out_as_blanks():
    specs = (WORDS, COUNTS)
    made = chooser(CaptureRules(1.0, 0.0, ("words[1]", "counts[0]")), *specs)
    feeds = {
        "words": np.array([["ok", "secret"], ["größer", "\ud800"]], object),
        "counts": np.array([[5, 6], [7, 8]]),
    }
    made.take("digits", request(feeds), answers(2, 0.9))
    (group,) = read(rows_of(made.close()))
    assert group.inputs["words"].tolist() == [["ok", ""], ["größer", ""]]
    assert group.inputs["counts"].tolist() == [[0, 6], [0, 8]]


@pytest.mark.parametrize(
    ("specs", "leave_out"),
    [
        ((X,), ("aeg",)),
        ((X,), ("weight", "aeg")),
        ((X,), ("X[1]",)),
        ((X.model_copy(update={"feature_names": ()}),), ("weight",)),
        ((X.model_copy(update={"feature_names": ()}),), ("X[3]",)),
        ((X.model_copy(update={"shape": (-1, -1)}),), ("Y[1]",)),
    ],
)
def test_nothing_is_kept_of_a_model_that_lacks_what_shall_be_left_out(specs, leave_out):
    made = chooser(CaptureRules(1.0, 1.0, leave_out), *specs)
    for n_rows in (1, 5):
        x = np.full((n_rows, 3), 77, np.float32)
        made.take("digits", request({"X": x}), answers(n_rows, 0.9))
    assert made.close() is None


@pytest.mark.parametrize("leave_out", [("weight",), ("X[7]",)])
def test_a_request_of_another_width_is_dropped_where_its_columns_are_others(leave_out):
    free = X.model_copy(update={"shape": (-1, -1)})
    made = chooser(CaptureRules(1.0, 1.0, leave_out), free)
    made.take("digits", request({"X": np.full((2, 4), 77, np.float32)}), answers(2, 0.9))
    assert made.close() == measured.Captured((), 2)
    fit = 3 if leave_out == ("weight",) else 9
    made.take("digits", request({"X": np.full((2, fit), 77, np.float32)}), answers(2, 0.9))
    assert made.close().requests[0].left_out == leave_out


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 700),
            st.sampled_from(["", "\0" * 256, "ü" * 256, '"' * 256, "\ud800x"]),
            st.sampled_from([1, 3, 200]),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_what_is_told_at_once_always_fits_and_what_does_not_is_counted(asked):
    wide = TensorSpec(name="n" * 120, datatype="FP64", shape=(-1, -1))
    columns = tuple(f"{wide.name}[{n}]" for n in range(3))
    made = chooser(CaptureRules(1.0, 0.0, columns), wide)
    for n_rows, id_, width in asked:
        feeds = {wide.name: np.full((n_rows, width), 1 / 3)}
        made.take("digits", request(feeds, id_=id_), answers(n_rows, 1 / 3))
    told = made.close()
    assert len(control._encoder.encode(told)) <= capture_module.MAX_TOLD_BYTES + 200
    kept = sum(len(part.scores) for part in told.requests)
    assert kept + told.dropped_count == sum(n_rows for n_rows, _, _ in asked)
    assert len(rows_of(told)) == kept


@pytest.mark.parametrize("width", [20_000, 10**6])
def test_rows_that_are_too_large_are_dropped_and_counted(width):
    made = chooser(CaptureRules(1.0, 0.0), TensorSpec(name="X", datatype="FP32", shape=(-1, -1)))
    made.take("digits", request({"X": np.zeros((2, width), np.float32)}), answers(2, 0.5))
    assert made.close() == measured.Captured((), 2)


def test_a_text_that_is_too_long_is_dropped_before_it_is_widened():
    made = chooser(CaptureRules(1.0, 0.0), WORDS)
    words = np.array([["x" * 10**7, ""]] + [["", ""]] * 400, object)
    made.take("digits", request({"words": words}), answers(401, 0.5))
    assert made.close() == measured.Captured((), 401)


# -- a runtime that was taken over


def captured(**changed):
    tensor = measured.CapturedTensor("X", False, "FP32", 1, (2,), bytes(16))
    fields = {
        "model": "digits", "at_unix_ms": 1, "id": "", "scores": (0.5, None), "tensors": (tensor,),
    }  # fmt: skip
    return measured.Captured((measured.CapturedRequest(**{**fields, **changed}),), 0)


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "another"},
        {"scores": (0.5,)},
        {"tensors": (measured.CapturedTensor("X", False, "FP32", 1, (2**31,) * 8, b""),)},
        {"tensors": (measured.CapturedTensor("X", False, "FP32", 1, (20_000,), bytes(160_000)),)},
        {"tensors": (measured.CapturedTensor("Y", True, "FP32", 1, (2,), bytes(16)),)},
    ],
    ids=["of no model", "too few rows", "huge", "over the cap", "no input"],
)
def test_rows_that_make_no_sense_are_nothing(changed):
    served = (ServedModel("digits", "1.0.0", MANIFEST, {}),)
    child = Child(1, served, auto_promote=True, timeout_s=1)
    assert len(child.captured(captured())) == 2
    assert child.captured(captured(**changed)) == ()


def test_a_runtime_without_rules_may_tell_of_no_row():
    for rules, fault in ((None, "out of turn"), (CaptureRules(0.5, 0.5), None)):
        conduct = Conduct()
        conduct.told(control.Start((), 1.0, capture=rules))
        conduct.told(control.Serve())
        said = conduct.fault_of(captured(), 0.0, is_with_socket=False)
        assert (said is None) == (fault is None)
        assert fault is None or fault in said
