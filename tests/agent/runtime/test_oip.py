"""The protocol, row by row: what is answered, what is refused, and in which words."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.runtime import oip
from agent.runtime.oip import Request, RequestError, parse_request
from wire.manifest import Manifest


def manifest(datatype="FP32", shape=(-1, 2), nan_policy="reject", more_inputs=()):
    files = [
        {"path": p, "sha256": "0" * 64, "bytes": 1, "media_type": "x/y"}
        for p in ("model.onnx", "golden.npz", "baseline.json", "parity.json")
    ]
    return Manifest.model_validate(
        {
            "name": "m",
            "version": "1",
            "files": files,
            "inputs": [
                {"name": "X", "datatype": datatype, "shape": list(shape)},
                *({"name": n, "datatype": "INT64", "shape": [-1]} for n in more_inputs),
            ],
            "outputs": [
                {"name": "label", "datatype": "INT64", "shape": [-1]},
                {"name": "p", "datatype": "FP32", "shape": [-1, 2]},
            ],
            "opset": {"": 17},
            "ir_version": 8,
            "ops": [],
            "minimum_runtime": "1.20",
            "nan_policy": nan_policy,
        }
    )


def body(data, shape=(1, 2), datatype="FP32", name="X", **more):
    tensor = {"name": name, "shape": list(shape), "datatype": datatype, "data": data}
    return json.dumps({"inputs": [tensor], **more}).encode()


GOOD = body([1, 2])


def test_a_request_is_read():
    request = parse_request(manifest(), body([1, 2.5], id="r-1"))
    assert request.feeds["X"].tolist() == [[1, 2.5]]
    assert request.feeds["X"].dtype == np.float32
    assert (request.id, request.n_rows) == ("r-1", 1)
    assert [o.name for o in request.outputs] == ["label", "p"]


@pytest.mark.parametrize(
    ("datatype", "data", "expected"),
    [
        ("FP32", [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        ("FP64", [1, 2, 3, 4], [[1, 2], [3, 4]]),
        ("FP16", [1, 2, 3, 4], [[1, 2], [3, 4]]),
        ("INT64", [1, -(2**63), 2**63 - 1, 0], [[1, -(2**63)], [2**63 - 1, 0]]),
        ("UINT64", [0, 2**64 - 1, 1, 2], [[0, 2**64 - 1], [1, 2]]),
        ("UINT8", [[0, 255], [1, 2]], [[0, 255], [1, 2]]),
        ("BOOL", [True, False, True, True], [[True, False], [True, True]]),
        ("BYTES", [["a", "ü"], ["", "d"]], [["a", "ü"], ["", "d"]]),
    ],
)
def test_every_datatype_flat_or_nested(datatype, data, expected):
    request = parse_request(manifest(datatype), body(data, (2, 2), datatype))
    assert request.feeds["X"].tolist() == expected


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "no inference request"),
        (b"[]", "no inference request"),
        (b"{", "no inference request"),
        (b"\xff", "no inference request"),
        (b'{"inputs":[]}', "inputs is empty"),
        (b'{"inputs":{}}', "no inference request"),
        (b'{"id":7,"inputs":[]}', "no inference request"),
        (b'{"inputs":[{"name":"X","shape":[1,2],"datatype":"FP32"}]}', "no data"),
        (b'{"inputs":' + b"[" * 100_000, "no inference request"),
        (body([1, 2], name="Z"), "unknown input 'Z'; the model takes 'X'"),
        (body([1, 2], datatype="FP64"), "is FP32, the request says 'FP64'"),
        (body([1, 2, 3], (1, 3)), "[-1, 2]"),
        (body([1, 2], (2,)), "[-1, 2]"),
        (body([1, 2], (-1, 2)), "[-1, 2]"),
        (body([1, 2, 3], (1, 2)), "takes 2 elements, data has 3"),
        (body([[1, 2], [3]], (2, 2)), "ragged"),
        (body([[1, 2], 3], (2, 2)), "ragged"),
        (body("12"), "not an array"),
        (body(["1", "2"]), "element 0 is no FP32 value"),
        (body([1, None]), "element 1 is no FP32 value"),
        (body([True, False]), "element 0 is no FP32 value"),
        (body([1, 2], outputs=[{"name": "q"}]), "unknown output 'q'"),
        (body([1, 2], parameters={"binary_data_output": True}), "binary"),
        (body([1, 2], id="x" * 300), "id is longer"),
        (
            b'{"inputs":[{"name":"X","shape":[1,2],"datatype":"FP32","data":'
            + b"[" * 50_000
            + b"]" * 50_000
            + b"}]}",
            "",
        ),
    ],
)
def test_what_is_refused_says_why(payload, says):
    with pytest.raises(RequestError) as caught:
        parse_request(manifest(), payload)
    assert caught.value.status == 400
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("INT64", [1.5, 2]),
        ("INT64", [2**63, 0]),
        ("UINT8", [256, 0]),
        ("UINT8", [-1, 0]),
        ("INT8", ["1", 2]),
        ("BOOL", [1, 0]),
        ("BYTES", [1, 2]),
        ("INT64", [True, False]),
    ],
)
def test_elements_are_not_converted(datatype, data):
    with pytest.raises(RequestError):
        parse_request(manifest(datatype), body(data, datatype=datatype))


@pytest.mark.parametrize(
    "payload",
    [
        b'{"inputs":[],' + GOOD[1:],
        GOOD.replace(b'{"name"', b'{"name":"Y","name"'),
        GOOD.replace(b'{"name"', b'{"shape":[9],"name"'),
        GOOD[:-1] + b',"id":"a","id":"b"}',
        GOOD[:-1] + b',"outputs":[{"name":"p","name":"label"}]}',
    ],
)
def test_a_key_that_is_there_twice_is_refused(payload):
    with pytest.raises(RequestError, match="twice"):
        parse_request(manifest(), payload)


def test_texts_that_look_like_keys_are_no_keys():
    payload = body(["shape", "name", "name", "name"], shape=(2, 2), datatype="BYTES", id="name")
    feeds = parse_request(manifest("BYTES"), payload).feeds
    assert feeds["X"].tolist() == [["shape", "name"], ["name", "name"]]


def test_missing_and_doubled_inputs_are_named():
    with pytest.raises(RequestError, match="input 'Y' is missing"):
        parse_request(manifest(more_inputs=["Y"]), GOOD)
    twice = json.loads(GOOD)
    twice["inputs"] *= 2
    with pytest.raises(RequestError, match="given twice"):
        parse_request(manifest(), json.dumps(twice).encode())


def test_non_finite_numbers_pass_where_the_manifest_says_so():
    request = parse_request(
        manifest(nan_policy="pass"), body([[1, math.nan], [math.inf, 4]], (2, 2))
    )
    assert np.isnan(request.feeds["X"][0, 1])
    assert np.isinf(request.feeds["X"][1, 0])


def test_an_empty_batch_is_a_request():
    assert parse_request(manifest(), body([], (0, 2))).n_rows == 0


def test_answers_name_what_was_asked_in_order():
    m = manifest()
    request = parse_request(m, body([1, 2], id="a", outputs=[{"name": "p"}, {"name": "label"}]))
    answers = [np.float32([[0.5, 0.5]]), np.int64([1])]
    answer = json.loads(oip.encode_answer(m, request, answers, is_finite=True))
    assert answer["id"] == "a"
    assert [o["name"] for o in answer["outputs"]] == ["p", "label"]
    assert answer["outputs"][0] == {
        "name": "p", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 0.5],
    }  # fmt: skip


def test_non_finite_answers_are_written_as_clients_read_them():
    m = manifest()
    request = Request({}, m.outputs[1:], 1, None)
    answers = [np.float32([[math.nan, math.inf]])]
    assert not oip.are_finite(answers)
    text = oip.encode_answer(m, request, answers, is_finite=False).decode()
    assert "NaN" in text
    assert "Infinity" in text
    assert "id" not in json.loads(text)


@settings(max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["inputs", "name", "shape", "data", "datatype", "X"]), inner
                )
            ),
            max_leaves=20,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_no_body_does_worse_than_a_request_error(payload):
    try:
        request = parse_request(manifest(), payload)
    except RequestError:
        return
    assert set(request.feeds) == {"X"}


@settings(max_examples=100)
@given(st.lists(st.tuples(st.floats(width=32), st.floats(width=32)), max_size=5))
def test_numbers_arrive_exactly(rows):
    payload = body([list(row) for row in rows], (len(rows), 2))
    request = parse_request(manifest(nan_policy="pass"), payload)
    expected = np.array(rows, dtype=np.float32).reshape(len(rows), 2)
    np.testing.assert_array_equal(request.feeds["X"], expected)
