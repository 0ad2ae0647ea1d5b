"""Labels that come late: what they are held against, what is counted, what is refused, and the ring's bounds."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime import oip
from agent.runtime.answers import AnswerRing
from agent.runtime.feedback import MAX_BODY_BYTES, MAX_LABELS, parse_feedback, take_all
from agent.runtime.labels import Given, Labelling, Refused
from tests.agent.runtime.test_oip import manifest
from wire.histogram import Baseline, CategoryColumn
from wire.manifest import TensorSpec
from wire.performance import MAX_CLASSES

LABEL = TensorSpec(name="label", datatype="INT64", shape=(-1,))
TABLE = TensorSpec(name="p", datatype="FP32", shape=(-1, 3))
NUMBER = TensorSpec(name="y", datatype="FP32", shape=(-1, 1))
CATEGORIES = ("1", "0", "2")


def labelling(*outputs, categories=CATEGORIES, probabilities="p", max_rows=1000, max_bytes=10**6):
    outputs = outputs or (LABEL, TABLE)
    column = CategoryColumn(name="label", categories=categories, counts=(1,) * len(categories))
    baseline = Baseline(row_count=9, inputs=(), outputs=(column,), probabilities=probabilities)
    made = manifest().model_copy(update={"outputs": outputs, "version": "1.0.0"})
    return Labelling(made, baseline, max_rows=max_rows, max_bytes=max_bytes)


def answered(labels, scores):
    table = np.zeros((len(labels), 3), np.float32)
    table[np.arange(len(labels)), labels] = scores
    return [np.array(labels), table]


def cause_of(taker, *given, **more):
    with pytest.raises(Refused) as caught:
        taker.take(Given(*given, **more))
    return caught.value.cause


def test_labels_are_counted_by_class_and_by_score():
    taker = labelling()
    taker.remember("a", (LABEL, TABLE), answered([1], [0.97]))
    taker.remember("b", (LABEL, TABLE), answered([0, 2, 2], [0.61, 0.62, 1.0]))
    taker.take(Given("a", 1))
    taker.take(Given("b", 0, row=0))
    taker.take(Given("b", 1, row=1, version="1.0.0"))
    taker.take(Given("b", 7, row=2))
    found = taker.close_window()
    assert (found.labelled, found.correct, found.errors) == (4, 2, None)
    # By answer, then label, in the order of the baseline's categories: 1, 0, 2, any other.
    assert found.confusion == (1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1)
    assert found.scores == (0,) * 12 + (2,) + (0,) * 6 + (2,)
    assert found.score_correct == (0,) * 12 + (1,) + (0,) * 6 + (1,)
    assert found.score_sums[12] == pytest.approx(1.23, abs=1e-5)
    assert found.score_sums[19] == pytest.approx(1.97, abs=1e-5)
    assert taker.close_window() is None, "nothing is told twice"


def test_each_refusal_has_its_cause_and_is_counted_and_changes_nothing():
    taker = labelling()
    taker.remember("a", (LABEL, TABLE), answered([1, 2], [0.9, 0.9]))
    taker.take(Given("a", 1, row=0))
    assert cause_of(taker, "a", 2, row=0) == "already_labelled"
    assert cause_of(taker, "b", 1) == "unknown_id"
    assert cause_of(taker, "a", 1, row=2) == "unknown_id"
    assert cause_of(taker, "a", 1) == "unknown_id", "it had two rows: which one?"
    assert cause_of(taker, "a", 1, row=1, version="0.9") == "other_version"
    for wrong in ("1", True, 1.0, 2**70):
        assert cause_of(taker, "a", wrong, row=1) == "wrong_type"
    found = taker.close_window()
    assert (found.labelled, found.correct) == (1, 1)
    assert found.refused == {
        "already_labelled": 1, "unknown_id": 3, "other_version": 1, "wrong_type": 4,
    }  # fmt: skip


def test_numbers_have_errors():
    taker = labelling(NUMBER, probabilities="")
    taker.remember("a", (NUMBER,), [np.float32([[2.5], [1.0]])])
    taker.take(Given("a", 2, row=0))
    taker.take(Given("a", 3.0, row=1))
    assert cause_of(labelling(NUMBER, probabilities=""), "a", 1.0) == "unknown_id"
    for odd in (np.nan, np.inf):
        taker.remember("b", (NUMBER,), [np.float32([[odd]])])
        assert cause_of(taker, "b", 1.0) == "unknown_id", "from NaN nothing can be learnt"
    taker.remember("c", (NUMBER,), [np.float32([[0]])])
    for wrong in ("1", True, float("inf"), float("nan"), 1e101):
        assert cause_of(taker, "c", wrong) == "wrong_type"
    found = taker.close_window()
    assert (found.labelled, found.correct, found.errors) == (2, 0, (-1.5, 2.5, 4.25))


def test_without_an_output_of_classes_it_is_the_most_probable():
    taker = labelling(TABLE)
    taker.remember("a", (TABLE,), [np.float32([[0.2, 0.1, 0.7]])])
    taker.take(Given("a", 2))
    found = taker.close_window()
    assert (found.correct, found.confusion) == (1, (0,) * 10 + (1,))


def test_an_answer_without_an_id_or_without_its_class_is_not_remembered():
    taker = labelling()
    taker.remember(None, (LABEL, TABLE), answered([1], [0.9]))
    taker.remember("a", (TABLE,), answered([1], [0.9])[1:])
    assert len(taker.ring) == 0
    taker.remember("b", (LABEL,), answered([1], [0.9])[:1])
    taker.take(Given("b", 1))
    found = taker.close_window()
    assert (found.correct, found.scores) == (1, ())


def test_many_classes_are_bounded():
    categories = tuple(str(number) for number in range(200))
    taker = labelling(categories=categories)
    for number in (0, 5, 150, 199):
        taker.remember("x", (LABEL,), [np.array([number])])
        taker.take(Given("x", 150))
    found = taker.close_window()
    assert (found.labelled, found.correct, sum(found.confusion)) == (4, 1, 4)
    assert len(found.confusion) == MAX_CLASSES**2
    assert found.confusion[-1] == 2, "others are one class, right or wrong"


@pytest.mark.parametrize(
    ("spec", "answer", "text"),
    [
        (LABEL, np.array([-3]), "-3"),
        (LABEL.model_copy(update={"datatype": "BOOL"}), np.array([True]), "true"),
        (LABEL.model_copy(update={"datatype": "BYTES"}), np.array(["ü 7"], object), "ü 7"),
    ],
)
def test_labels_from_afar_are_text(spec, answer, text):
    taker = labelling(spec)
    taker.remember("a", (spec,), [answer])
    for wrong in ("True", "3.0", "", " -3", "1e3", "9" * 30):
        if spec.datatype != "BYTES":
            taker.take_text(Given("a", wrong))
    taker.take_text(Given("a", text))
    taker.take_text(Given("nobody", text))
    found = taker.close_window()
    assert (found.labelled, found.correct) == (1, 1)
    assert found.refused["unknown_id"] == 1
    assert found.refused.get("wrong_type", 0) == (0 if spec.datatype == "BYTES" else 6)


puts = st.lists(st.tuples(st.text(max_size=3), st.integers(1, 12)), max_size=60)


@given(puts, st.integers(0, 30), st.integers(0, 20_000))
def test_the_ring_holds_the_newest_that_there_is_room_for(asked, max_rows, max_bytes):
    ring = AnswerRing(max_rows, max_bytes)
    for request, rows in asked:
        ring.put(request, [1] * rows)
        assert ring.row_count <= max_rows
        assert ring.size_bytes <= max_bytes
    kept = {request: entry for request, _ in asked if (entry := ring.get(request)) is not None}
    assert sum(len(entry.labels) for entry in kept.values()) == ring.row_count
    assert sum(entry.size_bytes for entry in kept.values()) == ring.size_bytes
    newest = list(dict.fromkeys(request for request, _ in reversed(asked)))
    present = [request in kept for request in newest]
    if max_rows >= 12 and max_bytes > 2000 and asked:
        assert present[0]
        assert present == sorted(present, reverse=True), "a newer one went before an older"


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("label", [3, "a class of some length that is new each time "])
def test_a_flood_takes_no_more_memory_than_the_ring_may(rows, label):
    max_bytes = 400_000
    ring = AnswerRing(10**6, max_bytes)
    tracemalloc.start()
    for number in range(20_000 // rows):
        one = label if isinstance(label, int) else f"{label}{number}"
        ring.put(f"request-{number}", [one] * rows, [0.1 + number] * rows)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ring.size_bytes <= max_bytes
    assert taken <= max_bytes * 1.1
    assert len(ring) * rows > 500


HOSTILE = [
    b"", b"null", b"[]", b"{}", b'{"labels":[]}', b'{"labels":{}}', b'{"labels":[1]}', b"[" * 100_000,
    b'{"labels":[{"id":"a"}]}', b'{"labels":[{"label":1}]}', b'{"labels":[{"id":1,"label":1}]}',
    b'{"labels":[{"id":"a","label":null}]}', b'{"labels":[{"id":"a","label":[1]}]}',
    b'{"labels":[{"id":"a","label":1,"row":-1}]}', b'{"labels":[{"id":"a","label":1,"row":1.5}]}',
    b'{"labels":[{"id":"a","label":1,"row":99999999999}]}', b'{"labels":[{"id":"a","label":NaN}]}',
    b'{"labels":[{"id":"a","label":1e999}]}', b'{"labels":[{"id":"a","id":"b","label":1}]}',
    b'{"labels":[{"id":"a","label":1}],"labels":[]}', b'\xff{"labels":[]}',
    b'{"labels":[{"id":"' + b"a" * 257 + b'","label":1}]}',
    json.dumps({"labels": [{"id": "a", "label": 1}] * (MAX_LABELS + 1)}).encode(),
    b'{"labels":[{"id":"a","label":' + b"9" * 5000 + b"}]}",
    b" " * (MAX_BODY_BYTES + 1),
]  # fmt: skip


def status_of(taker, body):
    try:
        given = parse_feedback(body)
    except oip.RequestError as exc:
        return exc.status, str(exc)
    status, answer = take_all("m", taker, given)
    (words,) = json.loads(answer).values()
    return status, words


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body[:40]))
def test_a_hostile_body_is_refused_or_its_labels_are(body):
    taker = labelling()
    taker.remember("a", (LABEL, TABLE), answered([1], [0.9]))
    status, words = status_of(taker, body)
    assert status in (400, 413)
    assert 0 < len(words) <= 300
    window = taker.close_window()
    assert window is None or window.labelled == 0


def test_of_many_labels_those_that_can_be_are_taken():
    taker = labelling()
    taker.remember("a", (LABEL, TABLE), answered([1, 0], [0.9, 0.8]))
    body = json.dumps({"labels": [
        {"id": "a", "row": 0, "label": 1}, {"id": "z", "label": 1}, {"id": "a", "row": 1, "label": 1},
    ]})  # fmt: skip
    status, answer = take_all("m", taker, parse_feedback(body.encode()))
    said = json.loads(answer)
    assert (status, said["accepted_count"], said["refused_count"]) == (200, 2, 1)
    assert said["refused"][0]["id"] == "z"
    assert said["refused"][0]["error"].startswith("unknown_id: ")
    status, answer = take_all("m", taker, parse_feedback(body.encode()))
    assert (status, list(json.loads(answer))) == (409, ["error"])
