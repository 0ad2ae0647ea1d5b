"""Labels for a real runtime, by HTTP and by its supervisor, and what it tells of them."""

import pytest

from agent.core.ring import Ring
from agent.ports import ColumnsClosed, LabelsClosed
from wire.performance import GivenLabel


def ask(bench, request, rows=((1, 2, 3, 4),), name="m"):
    flat = [value for row in rows for value in row]
    tensor = {"name": "X", "shape": [len(rows), 4], "datatype": "FP32", "data": flat}
    return bench.request("POST", f"/v2/models/{name}/infer", {"id": request, "inputs": [tensor]})


def give(bench, *labels, name="m"):
    return bench.request("POST", f"/v2/models/{name}/feedback", {"labels": list(labels)})


def test_labels_of_a_regression_by_both_ways(bench, make_model):
    bench.serve(make_model("2"))
    assert ask(bench, "a")[1]["id"] == "a"
    ask(bench, "b", [(1, 2, 3, 4)] * 3)
    status, said = give(bench, {"id": "a", "label": 1.5})
    assert (status, said["accepted_count"], said["model_version"]) == (200, 1, "2")
    bench.host.give_labels(
        "m", (GivenLabel(id="b", row=2, label="4"), GivenLabel(id="b", row=0, label="x"))
    )
    bench.host.give_labels("nobody", (GivenLabel(id="b", row=1, label="4"),))
    bench.host.close_columns()
    stats = bench.wait(LabelsClosed).stats
    assert (stats.model, stats.labelled_count, stats.correct_count) == ("m", 2, 0)
    assert (stats.errors.error, stats.errors.absolute, stats.errors.squared) == (-1.5, 2.5, 4.25)
    assert (stats.refused.wrong_type, stats.refused.unknown_id) == (1, 0)


@pytest.mark.parametrize(
    ("label", "status", "cause"),
    [
        ({"id": "gone", "label": 1}, 404, "unknown_id"),
        ({"id": "a", "label": "two"}, 400, "wrong_type"),
        ({"id": "a", "label": 2, "version": "3"}, 409, "other_version"),
        ({"id": "a", "label": 2, "row": 1}, 404, "unknown_id"),
        ({"label": 2}, 400, "the body is no feedback"),
    ],
)
def test_what_cannot_be_taken_is_an_error_that_begins_with_its_cause(
    shared_bench, make_model, label, status, cause
):
    shared_bench.serve(make_model("2"))
    ask(shared_bench, "a")
    found, said = give(shared_bench, label)
    assert (found, list(said)) == (status, ["error"])
    assert said["error"].startswith(cause)
    assert give(shared_bench, {"id": "a", "label": 2})[0] == 200
    assert give(shared_bench, {"id": "a", "label": 2})[1]["error"].startswith("already_labelled")


def test_only_what_there_is(shared_bench, make_model):
    shared_bench.serve(make_model("2"))
    assert give(shared_bench, {"id": "a", "label": 1}, name="other")[0] == 404
    assert shared_bench.request("GET", "/v2/models/m/feedback")[0] == 405


def test_the_ring_is_as_large_as_it_was_set_and_what_drains_tells_of_its_labels(
    start_bench, make_model
):
    bench = start_bench(ring=Ring(max_rows=5, max_bytes=100_000))
    bench.serve(make_model("1"))
    for number in range(20):
        assert ask(bench, f"r{number}")[0] == 200
    taken = [give(bench, {"id": f"r{number}", "label": 1})[0] for number in range(20)]
    assert taken == [404] * 15 + [200] * 5
    bench.swap(make_model("2"))
    stats = bench.wait(LabelsClosed).stats
    assert (stats.version, stats.labelled_count, stats.refused.unknown_id) == ("1", 5, 15)
    assert give(bench, {"id": "r19", "label": 1})[0] == 404, "the ring is the incarnation's"
    assert [event for event in bench.log if isinstance(event, ColumnsClosed)]
