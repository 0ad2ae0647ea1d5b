"""The manifest: complete, without doubles, and never more than its digest says."""

import copy
import hashlib
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import manifest
from wire.errors import BundleError
from wire.manifest import MAX_FILES, MAX_MANIFEST_BYTES, REQUIRED_FILES, parse_manifest

GOOD = json.loads(
    (Path(__file__).parents[1] / "golden" / "wire" / "v1" / "manifest.json").read_bytes()
)


def parse(value):
    return parse_manifest(value if isinstance(value, bytes) else json.dumps(value).encode())


def refusal(value):
    with pytest.raises(BundleError) as refused:
        parse(value)
    assert refused.value.code == "manifest_invalid"
    assert str(refused.value).startswith("manifest.json: ")
    assert len(str(refused.value)) < 400
    return str(refused.value)


def entry(path, **changes):
    return {"path": path, "sha256": "a" * 64, "bytes": 1, "media_type": "x/y"} | changes


def changed(**changes):
    return copy.deepcopy(GOOD) | changes


def with_files(*more):
    return changed(files=[*GOOD["files"], *more])


def test_a_manifest_is_what_its_bytes_say():
    parsed = parse(GOOD)
    assert (parsed.name, parsed.version) == ("digits", "1.1.0")
    assert parsed.file("model.onnx").bytes == 98_113
    assert parsed.inputs[0].shape == (-1, 64)
    assert parsed.opset == {"": 21, "ai.onnx.ml": 3}


def test_the_digest_is_of_the_bytes_as_they_are():
    one, two = json.dumps(GOOD).encode(), json.dumps(GOOD, indent=1).encode()
    assert manifest.digest_of(one) == hashlib.sha256(one).hexdigest()
    assert parse(one) == parse(two)
    assert manifest.digest_of(one) != manifest.digest_of(two)


@pytest.mark.parametrize("path", sorted(REQUIRED_FILES))
def test_a_manifest_without_a_required_file_is_refused(path):
    rest = [file for file in GOOD["files"] if file["path"] != path]
    assert path in refusal(changed(files=rest))


def test_a_manifest_may_list_more_files_and_only_so_many():
    room = MAX_FILES - len(REQUIRED_FILES)
    more = [entry(f"more-{n}.bin") for n in range(room)]
    assert len(parse(with_files(*more)).files) == MAX_FILES
    refusal(with_files(*more, entry("one-too-many")))


def test_a_file_is_not_listed_twice():
    assert "twice" in refusal(with_files(GOOD["files"][0]))
    assert "twice" in refusal(with_files(entry("a"), entry("a", sha256="b" * 64)))


def test_a_manifest_does_not_list_itself():
    assert "itself" in refusal(with_files(entry("manifest.json")))


@pytest.mark.parametrize("path", ["a", "0", "a.b", "a..b", "model-2.onnx", "a_b", "a" * 64])
def test_a_file_is_named_by_a_plain_name(path):
    assert parse(with_files(entry(path))).file(path).path == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "../a",
        "/a",
        "a/b",
        "a\\b",
        "A",
        ".a",
        "-a",
        "_a",
        "a ",
        "a\n",
        "a\0",
        "ä",
        "a" * 65,
        1,
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(path):
    refusal(with_files(entry(path)))


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": "A" * 64},
        {"sha256": "a" * 63},
        {"sha256": "a" * 64 + "\n"},
        {"bytes": -1},
        {"bytes": 4 * 1024**3 + 1},
        {"bytes": "1"},
        {"bytes": 1.0},
        {"bytes": True},
        {"media_type": "x" * 129},
        {"media_type": None},
    ],
)
def test_a_file_of_impossible_form_is_refused(changes):
    parse(with_files(entry("a")))
    refusal(with_files(entry("a", **changes)))


@pytest.mark.parametrize("field", ["inputs", "outputs"])
@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "n" * 129},
        {"name": "a\x1b[2J"},
        {"name": "ä"},
        {"datatype": "FP128"},
        {"datatype": "fp32"},
        {"shape": [-2]},
        {"shape": [2**31 + 1]},
        {"shape": [1] * 9},
        {"shape": [1.5]},
        {"shape": ["1"]},
        {"shape": None},
        {"feature_names": ["a\n"]},
        {"units": [None]},
    ],
)
def test_a_tensor_of_impossible_form_is_refused(field, changes):
    refusal(changed(**{field: [GOOD[field][0] | changes]}))


@pytest.mark.parametrize("field", ["inputs", "outputs"])
def test_tensors_are_one_or_more_with_names_of_their_own(field):
    refusal(changed(**{field: []}))
    assert "same name" in refusal(changed(**{field: [GOOD[field][0]] * 2}))


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"v": "1"},
        {"name": "../x"},
        {"name": "a" * 65},
        {"version": "1 0"},
        {"version": "-1"},
        {"opset": {"": 0}},
        {"opset": {"": 1001}},
        {"opset": {"": "17"}},
        {"opset": []},
        {"ir_version": 0},
        {"ops": "Add"},
        {"ops": [1]},
        {"minimum_runtime": ""},
        {"minimum_runtime": "1."},
        {"minimum_runtime": "1.2.3.4"},
        {"minimum_runtime": "1.2-rc1"},
        {"minimum_runtime": "9" * 5000},  # would be an error of its own when it is compared
        {"device_class": "x" * 65},
        {"nan_policy": "maybe"},
        {"budgets": {"p99_ms": 0}},
        {"budgets": {"memory_mb": 0}},
        {"budgets": {"memory_mb": 2**20 + 1}},
        {"budgets": {"memory_mb": 10**30}},
        {"budgets": {"memory_mb": 1.5}},
        {"lineage": {"metrics": {"accuracy": "0.9"}}},
        {"lineage": {"parameters": {"C": 0.1}}},
        {"lineage": {"data_sha256": "x"}},
    ],
)
def test_what_no_converter_writes_is_refused(changes):
    refusal(changed(**changes))


@pytest.mark.parametrize(
    "field",
    [
        "name",
        "version",
        "files",
        "inputs",
        "outputs",
        "opset",
        "ir_version",
        "ops",
        "minimum_runtime",
    ],
)
def test_a_manifest_without_a_needed_field_is_refused(field):
    value = changed()
    del value[field]
    assert field in refusal(value)


def test_what_a_newer_converter_adds_is_ignored():
    newer = changed(signature={"by": "x"})
    newer["inputs"][0]["new"] = newer["budgets"]["new"] = [1, None]
    assert parse(newer) == parse(GOOD)


GOOD_BYTES = json.dumps(GOOD).encode()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"\xef\xbb\xbf" + GOOD_BYTES,
        GOOD_BYTES + b"x",
        GOOD_BYTES[:-1],
        GOOD_BYTES[:-1] + b',"v":1}',
        GOOD_BYTES.replace(b"0.9667", b"NaN"),
        GOOD_BYTES.replace(b"0.9667", b"-Infinity"),
        GOOD_BYTES.replace(b"0.9667", b"1e400"),
        GOOD_BYTES.replace(b"98113", b"9" * 5000),
        GOOD_BYTES.replace(b'"0.1"', b'"\\ud800"'),
        GOOD_BYTES.replace(b'"C":', b'"C":"1","C":'),
        b"[" * 100_000,
        GOOD_BYTES.replace(b"0.9667", b"[" * 100_000 + b"]" * 100_000),
        GOOD_BYTES.ljust(MAX_MANIFEST_BYTES + 1),
    ],
)
def test_hostile_bytes_are_refused(payload):
    assert payload != GOOD_BYTES
    refusal(payload)


def test_a_manifest_at_the_cap_is_taken():
    assert parse(GOOD_BYTES.ljust(MAX_MANIFEST_BYTES)) == parse(GOOD)


@pytest.mark.parametrize(
    "value",
    [
        changed(ops=[0] * 100_000),
        changed(inputs=[GOOD["inputs"][0] | {"shape": [None] * 100_000}]),
        changed(inputs=[GOOD["inputs"][0] | {"feature_names": [0] * 60_000}]),
        changed(inputs=[GOOD["inputs"][0] | {"units": [0] * 60_000}]),
        changed(inputs=[0] * 100_000),
        changed(files=[0] * 100_000),
    ],
    ids=["ops", "shape", "feature-names", "units", "inputs", "files"],
)
def test_a_manifest_full_of_faults_costs_no_more_than_its_first(value):
    payload = json.dumps(value).encode()
    tracemalloc.start()
    refusal(payload)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * len(payload)


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), any_json, max_size=3))
def test_no_json_does_more_than_be_refused(changes):
    try:
        parsed = parse(GOOD | changes)
    except BundleError as exc:
        code = exc.code
    else:
        code = None
        assert {file.path for file in parsed.files} >= REQUIRED_FILES
    assert code in {None, "manifest_invalid"}
