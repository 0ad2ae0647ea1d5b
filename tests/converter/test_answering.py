"""What the converted model of a bundle answers, seen through the bundle alone."""

import io
import zipfile

import numpy as np
import pytest
from onnx import TensorProto, helper
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from converter import add_card, answer, convert, measure
from converter.bundle import describe_files, write_bundle
from converter.handover import take_cost, take_outputs
from fleet.registry import push
from fleet.store.store import Store
from wire.bundle import read_bundle
from wire.errors import BundleError, ModelfleetError


@pytest.fixture(scope="session")
def bundle(classifier, digits, tmp_path_factory, ask_in):
    request = ask_in(tmp_path_factory.mktemp("answering"))(classifier, digits.rows, digits.label)
    convert(request, [].append)
    return request.output


def test_the_converted_model_answers_as_the_original(bundle, classifier, digits, scratch):
    outputs = answer(bundle, digits.rows)
    assert list(outputs) == ["label", "probabilities"]
    assert np.array_equal(outputs["label"], classifier.predict(digits.rows))
    expected = classifier.predict_proba(digits.rows)
    assert outputs["probabilities"] == pytest.approx(expected, abs=1e-6)
    assert list(scratch.iterdir()) == []


def test_rows_in_double_precision_are_rounded_as_on_a_device(bundle, digits):
    wide = answer(bundle, digits.rows.astype(np.float64))
    assert np.array_equal(wide["probabilities"], answer(bundle, digits.rows)["probabilities"])


def test_strings_reach_the_model(ask, scratch):
    rows = np.array([["red", "s"], ["blue", "m"], ["red", "l"], ["green", "s"]] * 20)
    labels = np.array(["warm", "cold", "warm", "cold"] * 20)
    model = make_pipeline(
        make_column_transformer((OneHotEncoder(handle_unknown="ignore"), [0, 1])),
        LogisticRegression(),
    ).fit(rows, labels)
    request = ask(model, rows, labels)
    convert(request, [].append)
    assert answer(request.output, rows[:4])["label"].tolist() == labels[:4].tolist()


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (np.zeros((3, 5), np.float32), "5 columns, the model takes 4"),
        (np.zeros((0, 4), np.float32), "must be"),
        (np.zeros(4, np.float32), "must be"),
        (np.array([[1, 2, np.nan, 4]]), "missing or infinite"),
        (np.array([["a", "b", "c", "d"]]), "the model takes float32"),
        (np.array([[1j, 1, 1, 1]]), "must be"),
    ],
)
def test_rows_that_a_device_would_refuse_are_refused(bundle, rows, says):
    with pytest.raises(BundleError) as caught:
        answer(bundle, rows)
    assert caught.value.code == "data_invalid"
    assert says in str(caught.value)


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError) as caught:
        answer(tmp_path / "none", np.zeros((1, 4)))
    assert caught.value.code == "bundle_unreadable"


def with_model(bundle, path, model):
    """Write a bundle with another model to `path`, as an attacker with the key would."""
    opened = read_bundle(bundle)
    files = {name: data for name, data in opened.files.items() if name != "manifest.json"}
    files["model.onnx"] = model
    manifest = opened.manifest.model_copy(update={"files": describe_files(files)})
    write_bundle(path, manifest, files)
    return path


def test_a_model_that_cannot_be_loaded_is_refused(bundle, tmp_path, graph):
    odd = graph([("Nonsense", ["X"], ["Y"])]).SerializeToString()
    with pytest.raises(BundleError) as caught:
        answer(with_model(bundle, tmp_path / "b", odd), np.zeros((1, 4), np.float32))
    assert caught.value.code == "model_invalid"


def endless(graph):
    """A model whose loop never ends."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Identity", ["carry"], ["carried"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carry", TensorProto.FLOAT, [None, 4]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, [None, 4]),
        ],
    )
    constants = [("count", np.int64(2**62)), ("yes", np.bool_(True))]
    return graph([("Loop", ["count", "yes", "X"], ["Y"], {"body": body})], constants=constants)


def test_a_model_that_never_answers_is_ended(bundle, tmp_path, graph, scratch):
    path = with_model(bundle, tmp_path / "b", endless(graph).SerializeToString())
    with pytest.raises(BundleError) as caught:
        answer(path, np.zeros((1, 4), np.float32), timeout_s=5.0)
    assert caught.value.code == "answer_timeout"
    assert list(scratch.iterdir()) == []


def test_a_model_that_answers_for_other_rows_than_it_got_is_refused(bundle, tmp_path, graph):
    one = graph([("ReduceSum", ["X"], ["Y"])]).SerializeToString()
    with pytest.raises(BundleError) as caught:
        answer(with_model(bundle, tmp_path / "b", one), np.zeros((3, 4), np.float32))
    assert caught.value.code == "answer_crashed"


def test_what_a_child_left_is_not_taken_on_trust(tmp_path):
    assert take_outputs(tmp_path, 1) is None
    assert take_cost(tmp_path) is None
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("names.npy", b"0" * 10**7)
    (tmp_path / "outputs.npz").write_bytes(buffer.getvalue())
    (tmp_path / "cost.json").write_text('{"bytes": 1, "p50_ms": NaN}')
    assert take_outputs(tmp_path, 1) is None
    assert take_cost(tmp_path) is None


def test_what_a_model_takes_is_measured(bundle, digits):
    cost = measure(bundle, digits.rows)
    assert cost.bytes == len(read_bundle(bundle).files["model.onnx"])
    assert 0 < cost.p50_ms <= cost.p99_ms
    assert cost.batch_p99_ms > 0
    assert cost.batch_row_count == 256


def test_a_large_model_is_seen_to_take_its_memory(bundle, tmp_path, graph):
    weights = np.random.default_rng(0).normal(size=(4, 4 * 2**20)).astype(np.float32)  # 64 MiB
    large = graph(
        [("MatMul", ["X", "W"], ["Z"]), ("ReduceMax", ["Z"], ["Y"], {"axes": [1], "keepdims": 1})],
        constants=[("W", weights)],
    )
    path = with_model(bundle, tmp_path / "b", large.SerializeToString())
    one_row = np.ones((1, 4), np.float32)
    assert measure(path, one_row).memory_mb > 64
    assert measure(bundle, one_row).memory_mb < 32


def test_a_card_is_packed_beside_the_same_files(bundle, tmp_path):
    digest, size = add_card(bundle, "# m\n\nGood.\n", tmp_path / "carded")
    before, after = read_bundle(bundle), read_bundle(tmp_path / "carded")
    assert after.files["model_card.md"] == b"# m\n\nGood.\n"
    assert digest == after.manifest_digest != before.manifest_digest
    assert size == (tmp_path / "carded").stat().st_size
    for name, data in before.files.items():
        assert name == "manifest.json" or after.files[name] == data
    assert after.manifest.model_copy(update={"files": before.manifest.files}) == before.manifest


def test_a_card_given_to_the_conversion_makes_the_same_bundle(
    bundle, tmp_path, classifier, digits, ask
):
    (tmp_path / "card.md").write_text("# Größe\n")
    request = ask(classifier, digits.rows, digits.label, card=tmp_path / "card.md")
    convert(request, [].append)
    add_card(bundle, "# Größe\n", tmp_path / "later")
    assert request.output.read_bytes() == (tmp_path / "later").read_bytes()


def test_a_card_is_replaced_in_place(bundle, tmp_path):
    path = tmp_path / "b"
    first, _ = add_card(bundle, "one", path)
    second, _ = add_card(path, "two", path)
    assert first != second
    assert read_bundle(path).files["model_card.md"] == b"two"
    assert add_card(path, "one", path)[0] == first


@pytest.mark.parametrize(
    ("card", "says"),
    [
        (b"x" * (256 * 1024 + 1), "over 262144 bytes"),
        (b"\xff", "no text in UTF-8"),
        (b"\x1b[31mred", "control characters"),
        (None, "cannot read"),
    ],
)
def test_what_is_no_card_is_refused(refused, ask, classifier, digits, tmp_path, *, card, says):
    path = tmp_path / "card.md"
    if card is not None:
        path.write_bytes(card)
    error = refused(ask(classifier, digits.rows, card=path), "request_invalid")
    assert "--card" in str(error)
    assert says in str(error)


def test_a_card_over_the_cap_is_no_valid_manifest(bundle, tmp_path):
    with pytest.raises(ModelfleetError) as caught:
        add_card(bundle, "ä" * 140_000, tmp_path / "b")
    assert "over 262144 bytes" in str(caught.value)
    with pytest.raises(ModelfleetError):
        add_card(bundle, "\ud800", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_device_stores_a_card_and_serves_as_without(bundle, tmp_path, serve, digits):
    add_card(bundle, "# m\n", tmp_path / "carded")
    opened = read_bundle(tmp_path / "carded")
    model = serve(opened)
    expected = answer(bundle, digits.rows)["label"]
    assert np.array_equal(model.run({"X": digits.rows}, ["label"])[0], expected)


def test_a_bundle_with_a_card_is_released_with_it(bundle, tmp_path):
    digest, _ = add_card(bundle, "# m\n", tmp_path / "carded")
    store = Store(tmp_path / "fleet.db", tmp_path)
    try:
        release = push(store, tmp_path / "carded", now_unix_ms=0)
    finally:
        store.close()
    assert release.release.manifest == digest
    assert "model_card.md" in release.release.manifest_body
