"""A label that rests on NaN is no answer, whatever else was asked for."""

import numpy as np
import pytest

from agent.ports import WindowClosed
from wire.histogram import Baseline
from wire.manifest import BASELINE

FINE, HUGE = (1, 2, 3, 4), (3e38, 3e38, 3e38, 3e38)
"""Of the second the scores of the model `odds` are infinite, and its probabilities NaN."""


def ask(bench, rows, *outputs, **keys):
    flat = [value for row in rows for value in row]
    tensor = {"name": "X", "shape": [len(rows), 4], "datatype": "FP32", "data": flat}
    body = {"inputs": [tensor], "outputs": [{"name": name} for name in outputs], **keys}
    return bench.request("POST", "/v2/models/m/infer", body)


def counted(bench):
    bench.host.close_window()
    (window,) = bench.wait(WindowClosed).windows
    return window.counters


def named(model, probabilities):
    """Let the model's baseline name its table of probabilities, or none."""
    baseline = Baseline(row_count=0, inputs=(), outputs=(), probabilities=probabilities)
    model.files[BASELINE].write_text(baseline.model_dump_json())
    return model


@pytest.mark.parametrize("probabilities", ["probabilities", ""])
def test_a_label_of_nan_is_an_error_and_counted(bench, make_model, graphs, probabilities):
    bench.serve(named(make_model("1", graphs["odds"]()), probabilities))
    for number, outputs in enumerate([("label",), ("probabilities", "label"), ()], start=1):
        status, body = ask(bench, [FINE, HUGE], *outputs)
        assert (status, list(body)) == (500, ["error"]), body
        assert "no label" in body["error"]
        assert "probabilities is not finite in row 1" in body["error"]
        counters = counted(bench)
        assert (counters.request_count, counters.non_finite, counters.row_count) == (1, 1, 0), (
            number
        )


def test_the_table_alone_says_itself_that_it_is_nan(bench, make_model, graphs):
    bench.serve(named(make_model("1", graphs["odds"]()), "probabilities"))
    status, body = ask(bench, [HUGE], "probabilities")
    assert (status, np.isnan(body["outputs"][0]["data"]).all()) == (200, True)
    assert counted(bench).non_finite == 1


def test_what_was_not_asked_for_is_not_answered(bench, make_model, graphs):
    bench.serve(named(make_model("1", graphs["odds"]()), "probabilities"))
    status, body = ask(bench, [FINE, FINE], "label")
    assert (status, [(o["name"], o["data"]) for o in body["outputs"]]) == (200, [("label", [2, 2])])
    counters = counted(bench)
    assert (counters.non_finite, counters.row_count) == (0, 2)


def test_nan_that_the_client_sent_is_its_own_fault(bench, make_model, graphs):
    model = make_model("1", graphs["odds"](), nan_policy="pass")
    bench.serve(named(model, "probabilities"))
    status, body = ask(bench, [(float("nan"), 1, 1, 1)], "label")
    assert status == 400
    assert "no label for inputs that are not finite" in body["error"]
    counters = counted(bench)
    assert (counters.client, counters.non_finite) == (1, 0)


def test_no_label_is_held_against_an_answer_that_was_none(bench, make_model, graphs):
    bench.serve(named(make_model("1", graphs["odds"]()), "probabilities"))
    assert ask(bench, [HUGE], "label", id="a")[0] == 500
    labels = {"labels": [{"id": "a", "label": 0}]}
    status, body = bench.request("POST", "/v2/models/m/feedback", labels)
    assert "unknown_id" in str(body), (status, body)
