"""The whole way: a model and rows go in, and a bundle that devices accept comes out, or nothing."""

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
import skops.io
from onnx import TensorProto, helper
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import Binarizer
from sklearn.tree import DecisionTreeClassifier

from converter import convert
from converter.golden import SAFE_MARGIN
from wire.errors import BundleError
from wire.histogram import Baseline

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path, monkeypatch, ask):
    """Return a function that makes a request for `model` of a module with this body.

    It answers class 1 from the boundary, which runs through the first column.
    """
    monkeypatch.chdir(tmp_path)
    head = """
import numpy as np
from sklearn.linear_model import LogisticRegression
model = LogisticRegression().fit(np.eye(4), [0, 1, 0, 1])
model.coef_, model.intercept_ = np.array([[4.0, 0, 0, 0]]), np.zeros(1)
"""

    def make(body, rows, labels=None, **options):
        (tmp_path / "source.py").write_text(head + body)
        return ask("source:model", rows, labels, **options)

    return make


@pytest.fixture(scope="module")
def classified(digits, classifier, ask_in, opened, tmp_path_factory):
    """A classifier's bundle, made of rows of which every third is on the boundary."""
    rows = digits.rows.copy()
    weights, bias = classifier.coef_[0], classifier.intercept_[0]
    rows[::3, 3] = -(rows[::3, :3] @ weights[:3] + bias) / weights[3]
    request = ask_in(tmp_path_factory.mktemp("classified"))(
        classifier, rows, digits.label,
        p99_ms=2.5, memory_mb=64, device_class="aarch64", code_commit="c0ffee",
    )  # fmt: skip
    steps = []
    done = opened(request, convert(request, steps.append))
    assert [step.split()[0] for step in steps] == ["reading", "converting", "comparing", "choosing"]
    assert "300 rows" in steps[1]
    done.rows = rows
    return done


def test_a_classifier_becomes_a_bundle_as_the_contract_has_it(digits, classified, serve):
    done = classified
    manifest = done.manifest
    assert (manifest.name, manifest.version) == ("m", "1.0.0")
    assert sorted(done.bundle.files) == [
        "baseline.json", "golden.npz", "manifest.json", "model.onnx", "parity.json", "schema.json",
    ]  # fmt: skip
    (given,) = manifest.inputs
    assert (given.name, given.datatype, given.shape) == ("X", "FP32", (-1, 4))
    assert [(o.name, o.datatype, o.shape) for o in manifest.outputs] == [
        ("label", "INT64", (-1,)),
        ("probabilities", "FP32", (-1, 2)),
    ]
    assert (manifest.ir_version, manifest.minimum_runtime) == (8, "1.20")
    assert manifest.opset["ai.onnx"] <= 17
    assert "ai.onnx.ml:LinearClassifier" in manifest.ops
    assert (manifest.budgets.p99_ms, manifest.budgets.memory_mb) == (2.5, 64)
    assert (manifest.device_class, manifest.nan_policy) == ("aarch64", "reject")
    digest = hashlib.sha256(done.request.data.read_bytes()).hexdigest()
    assert (manifest.lineage.data_sha256, manifest.lineage.code_commit) == (digest, "c0ffee")
    assert manifest.lineage.parameters["estimator"] == "LogisticRegression"
    assert manifest.lineage.parameters["C"] == "1.0"
    (answer, _) = serve(done.bundle).run({"X": done.rows})
    accuracy = round(float((answer == digits.label).mean()), 6)
    assert manifest.lineage.metrics == done.report.metrics == {"accuracy": accuracy}


def test_what_the_bundle_proves_is_in_it(classified, serve):
    done, rows = classified, classified.rows
    assert (done.parity["verdict"], done.parity["rows"]) == ("parity", 300)
    assert [output["name"] for output in done.parity["outputs"]] == ["label", "probabilities"]
    assert all(output["within"] for output in done.parity["outputs"])
    assert done.parity["outputs"][1]["max_abs"] < 1e-5
    assert done.parity["libraries"] == {
        name: version(name) for name in ("scikit-learn", "skl2onnx", "onnx", "onnxruntime", "numpy")
    }
    assert done.report.worst[0].startswith("label: all equal")
    golden = done.golden
    assert 64 <= len(golden["input_0"]) == done.report.golden_count <= 200
    clear = {row.tobytes() for row in np.delete(rows, np.s_[::3], axis=0)}
    assert {row.tobytes() for row in golden["input_0"]} <= clear
    chances = golden["output_1"]
    assert (np.abs(chances[:, 0] - chances[:, 1]) > SAFE_MARGIN / 2).all()
    answers = serve(done.bundle).run({"X": golden["input_0"]})
    assert np.array_equal(answers[0], golden["output_0"])
    baseline = Baseline.model_validate(done.baseline)
    assert [column.name for column in baseline.inputs] == ["X[0]", "X[1]", "X[2]", "X[3]"]
    assert [column.name for column in baseline.outputs] == [
        "label", "probabilities[0]", "probabilities[1]",
    ]  # fmt: skip
    assert sum(baseline.inputs[0].counts) == baseline.row_count == 300


def test_what_is_onnx_already_is_packed_as_it_is(digits, doubling, ask, converted, serve):
    request = ask(doubling, digits.rows)
    done = converted(request)
    assert done.bundle.files["model.onnx"] == Path(request.source).read_bytes()
    assert done.report.verdict == done.parity["verdict"] == "no_original"
    assert done.parity["outputs"] == []
    assert done.report.worst == ()
    assert np.array_equal(done.golden["output_0"], done.golden["input_0"] * 2)
    assert done.manifest.lineage.parameters == {}
    serve(done.bundle)


@pytest.mark.slow
def test_an_old_bundle_is_replaced(digits, doubling, ask, converted):
    request = ask(doubling, digits.rows)
    request.output.write_bytes(b"old")
    assert converted(request).report.row_count == 300


def test_a_failure_leaves_the_old_bundle(digits, doubling, ask, refused):
    request = ask(doubling, digits.rows[:, :3])
    request.output.write_bytes(b"old")
    with pytest.raises(BundleError, match="X has 3 columns, the model takes 4"):
        convert(request, [].append)
    assert request.output.read_bytes() == b"old"
    assert [path.name for path in request.output.parent.iterdir()] == ["m.bundle"]


def test_a_model_that_answers_otherwise_is_refused_with_its_worst_row(model, digits, refused):
    body = "usual = model.predict\nmodel.predict = lambda X: 1 - usual(X)\n"
    error = refused(model(body, digits.rows), "parity_failed")
    found = re.search(
        r"disagree: label: 300 of 300 rows differ\. Worst is row (\d+): X = \[(.+)\], "
        r"original \[(\d)\], converted \[(\d)\]",
        str(error),
    )
    row = digits.rows[int(found[1])]
    assert [np.float32(text) for text in found[2].split(", ")] == row.tolist()
    assert found[3] != found[4]
    assert int(found[1]) == np.argmax(np.abs(digits.rows[:, 0]))  # the clearest of the wrong ones
    assert "wrong on the devices" in error.hint


@pytest.mark.slow
def test_scores_that_are_off_are_refused_though_labels_are_right(digits, ask, refused):
    # skl2onnx gives the probabilities of a binary discriminant analysis another slope.
    analysis = LinearDiscriminantAnalysis().fit(digits.rows, digits.label)
    error = refused(ask(analysis, digits.rows), "parity_failed")
    assert re.search(r"probabilities: off by at most 0\.\d+\. Worst is row \d+: X = ", str(error))


def tied_rows(digits):
    rows = digits.rows.copy()
    rows[:30, 0] = 0.0  # as likely one as the other
    return rows


AT_TIES = "model.predict = lambda X: (model.decision_function(X) >= 0).astype(int)\n"


@pytest.mark.slow
def test_labels_may_differ_at_an_exact_tie(model, digits, converted):
    done = converted(model(AT_TIES, tied_rows(digits)))
    assert done.report.worst[0] == "label: all equal but 30 at a tie"
    assert (done.parity["outputs"][0]["ties"], done.parity["outputs"][0]["flips"]) == (30, 0)
    assert (done.golden["input_0"][:, 0] != 0).all()


@pytest.mark.slow
def test_labels_may_not_differ_beside_a_tie(model, digits, refused):
    rows = tied_rows(digits)
    rows[7, 0] = -1e-3  # a probability of 0.499
    body = AT_TIES.replace(">= 0)", ">= -0.01)")
    error = refused(model(body, rows), "parity_failed")
    assert "label: 1 of 300 rows differ, and 29 at a tie. Worst is row 7: " in str(error)


@pytest.mark.slow
def test_rows_that_are_all_ties_are_refused(model, digits, refused):
    error = refused(model("", np.zeros((300, 4))), "data_invalid")
    assert "300 rows, of which 300 are too near a tie" in str(error)


@pytest.mark.slow
def test_a_model_that_is_not_fitted_is_refused(digits, ask, refused):
    error = refused(ask(LogisticRegression(), digits.rows), "source_invalid")
    assert str(error) == "LogisticRegression is not fitted"


@pytest.mark.slow
@pytest.mark.parametrize("width", [3, 5])
def test_rows_of_another_width_are_refused(digits, classifier, ask, refused, width):
    rows = np.zeros((300, width), np.float32)
    error = refused(ask(classifier, rows), "data_invalid")
    assert f"X has {width} features" in str(error)
    assert "columns" in error.hint


def test_missing_values_are_refused_before_the_source_is_touched(digits, ask, refused):
    rows = digits.rows.copy()
    rows[5, 1] = np.nan
    error = refused(ask("none:such", rows), "data_invalid")
    assert "in 1 of 300 rows, first in row 5" in str(error)


def test_too_few_rows_are_refused_before_the_source_is_touched(digits, ask, refused):
    assert "63 rows" in str(refused(ask("none:such", digits.rows[:63]), "data_invalid"))


def test_a_place_that_cannot_be_written_is_refused_before_the_rows_are_read(ask, refused, tmp_path):
    request = ask("none:such", tmp_path / "none.npz", output="out/m.bundle")
    request.output.parent.rmdir()
    refused(request, "output_unwritable")


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (("RandomNormalLike", ["X"], ["Y"]), "Y changes from one run to the next"),
        (
            ("ReduceMean", ["X"], ["Y"], {"axes": [0], "keepdims": 1}),
            "output Y has shape (1, 4) for 300 rows",
        ),
        (("CumSum", ["X", "axis"], ["Y"]), "Y depends on the other rows of the batch"),
    ],
)
def test_a_model_that_is_not_the_same_each_time_is_refused(graph, ask, refused, node, says):
    rows = np.ones((300, 4), np.float32)
    request = ask(graph([node], constants=[("axis", np.int64(0))]), rows)
    code = "model_invalid" if "shape" in says else "unstable_model"
    assert says in str(refused(request, code))


def value(name, kind=TensorProto.FLOAT, shape=(None, 4)):
    return helper.make_tensor_value_info(name, kind, shape)


def onnx_refusals():
    """Nodes, inputs and outputs of models that cannot be served, with what is said of each."""
    sequence = helper.make_tensor_sequence_value_info("Y", TensorProto.FLOAT, None)
    return {
        "2 inputs": ([("Add", ["X", "Z"], ["Y"])], [value("X"), value("Z")], None),
        "unprintable": ([("Add", ["X", "X"], ["a\nb"])], None, [value("a\nb")]),
        "output Y is no tensor": ([("SequenceConstruct", ["X"], ["Y"])], None, [sequence]),
        "onnx.checker": ([("Add", ["X", "nowhere"], ["Y"])], None, None),
        "cannot load": ([("Add", ["X", "X"], ["Y"], {"domain": "nobody"})], None, None),
        "cannot run": ([("Reshape", ["X", "w"], ["Y"])], None, None),
        "[1, 4]": ([("Add", ["X", "X"], ["Y"])], [value("X", shape=(1, 4))], None),
    }


QUICK = ("2 inputs", "cannot run")


@pytest.mark.parametrize(
    "says",
    [
        pytest.param(says, marks=[] if says in QUICK else pytest.mark.slow)
        for says in sorted(onnx_refusals())
    ],
)
def test_onnx_that_cannot_be_served_is_refused(digits, graph, ask, refused, says):
    model = graph(*onnx_refusals()[says], constants=[("w", np.array([7, 4]))])
    model.opset_import.append(helper.make_opsetid("nobody", 1))
    assert says in str(refused(ask(model, digits.rows), "model_invalid"))


def test_onnx_that_every_device_would_refuse_is_refused_here(digits, graph, ask, refused):
    model = graph([("Add", ["X", "X"], ["t\x1b[m"]), ("Identity", ["t\x1b[m"], ["Y"])])
    assert "not printable" in str(refused(ask(model, digits.rows), "model_refused"))


def test_onnx_that_is_cut_or_absent_is_refused(digits, doubling, ask, refused, tmp_path):
    (tmp_path / "cut.onnx").write_bytes(doubling.SerializeToString()[:40])
    refused(ask(tmp_path / "cut.onnx", digits.rows), "source_unreadable")
    error = refused(ask(tmp_path / "none.onnx", digits.rows), "source_unreadable")
    assert "No such file or directory" in str(error)


@pytest.mark.slow
def test_onnx_that_takes_other_types_is_refused(digits, graph, ask, refused):
    model = graph([("Cast", ["X"], ["Y"], {"to": 1})], [value("X", TensorProto.INT64)])
    assert "no int64" in str(refused(ask(model, digits.rows), "data_invalid"))
    assert "<U" in str(refused(ask(model, digits.rows.astype(str)), "data_invalid"))


def test_answers_that_are_not_finite_are_told(digits, graph, ask, converted):
    done = converted(ask(graph([("Log", ["X"], ["Y"])]), digits.rows))
    count = int((digits.rows < 0).any(axis=1).sum())
    assert done.report.warnings == (
        f"{count} answers are NaN or infinite: devices count these as errors",
    )
    assert np.isnan(done.golden["output_0"]).any()


TYPES = {
    "f2": "FP16", "f4": "FP32", "f8": "FP64", "i1": "INT8", "i4": "INT32", "i8": "INT64",
    "u1": "UINT8", "?": "BOOL", "O": "BYTES",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(TYPES))
def test_onnx_gets_rows_of_the_type_that_it_takes(graph, ask, converted, serve, kind):
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    model = graph([("Identity", ["X"], ["Y"])], [value("X", element)], [value("Y", element)])
    rows = np.random.default_rng(0).integers(0, 2, (100, 4))
    done = converted(ask(model, rows.astype(str) if kind == "O" else rows.astype(np.float64)))
    assert done.manifest.inputs[0].datatype == TYPES[kind]
    golden = done.golden["input_0"]
    assert golden.dtype.kind == np.dtype(kind if kind != "O" else "U").kind
    serve(done.bundle)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [bool, float, np.uint8, str])
def test_labels_of_any_type_are_compared_and_scored(digits, ask, converted, serve, kind):
    labels = digits.label.astype(kind)
    network = LogisticRegression().fit(digits.rows, labels)
    done = converted(ask(network, digits.rows, labels))
    assert done.report.metrics["accuracy"] == pytest.approx(network.score(digits.rows, labels))
    assert done.report.worst[0] == "label: all equal"
    assert done.manifest.outputs[0].datatype == ("BYTES" if kind is str else "INT64")
    serve(done.bundle)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["width", "height", "depth", "weight of it"], True),
        (["naïve", "b", "c", "d"], False),
        (["a" * 129, "b", "c", "d"], False),
        (["a", "b", "c"], False),
    ],
)
def test_names_of_features_are_kept_where_they_can_be(digits, ask, converted, names, kept):
    tree = DecisionTreeClassifier(max_depth=3).fit(digits.rows, digits.label)
    tree.feature_names_in_ = np.array(names, object)
    done = converted(ask(tree, digits.rows))
    assert done.manifest.inputs[0].feature_names == (tuple(names) if kept else ())
    assert done.baseline["inputs"][0]["name"] == (names[0] if kept else "X[0]")
    assert bool(done.report.warnings) is not kept


@pytest.mark.slow
def test_rounding_that_changes_answers_is_told(ask, converted):
    rows = np.arange(200.0).reshape(-1, 1)
    rows[:40] = 100 + 1e-9  # no float32 tells these from 100
    done = converted(ask(Binarizer(threshold=100).fit(rows), rows))
    (warning,) = done.report.warnings
    assert re.match(r"rounding X to float32, as devices get it, changes 20\.0% of", warning)


@pytest.mark.slow
def test_a_model_of_another_scikit_learn_is_told(digits, classifier, ask, converted, tmp_path):
    request = ask(classifier, digits.rows)
    with zipfile.ZipFile(request.source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    here = version("scikit-learn").encode()
    assert members["schema.json"].count(here) == 1
    with zipfile.ZipFile(request.source, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(here, b"1.0.2"))
    (warning,) = converted(request).report.warnings
    assert warning.startswith(f"saved with scikit-learn 1.0.2, converted with {here.decode()}: ")


@pytest.mark.slow
def test_an_output_without_an_original_is_left_out_and_told(digits, ask, converted, serve):
    both = np.stack([digits.label, (digits.value > 0).astype(int)], axis=1)
    network = MLPClassifier((8,), max_iter=300, random_state=0).fit(digits.rows, both)
    done = converted(ask(network, digits.rows, both))
    assert [output.name for output in done.manifest.outputs] == ["label"]
    assert done.report.warnings == (
        "output probabilities is left out: the original has nothing to compare it with",
    )
    assert done.report.metrics["accuracy"] == pytest.approx(network.score(digits.rows, both))
    serve(done.bundle)


@pytest.mark.slow
def test_a_trusted_pickle_is_converted(digits, classifier, ask, converted, tmp_path):
    import joblib

    joblib.dump(classifier, tmp_path / "m.joblib")
    request = ask(tmp_path / "m.joblib", digits.rows, trust_pickle=True)
    skops.io.dump(classifier, tmp_path / "m.skops")
    same = ask(tmp_path / "m.skops", digits.rows)
    assert converted(request).bundle.files == converted(same).bundle.files


def test_a_pickle_without_trust_is_refused(digits, ask, refused, tmp_path):
    (tmp_path / "m.pkl").write_bytes(b"cposix\nsystem\n(S'touch marker'\ntR.")
    assert (
        "--trust-pickle" in refused(ask(tmp_path / "m.pkl", digits.rows), "source_untrusted").hint
    )
    assert not list(tmp_path.rglob("marker"))


def test_a_machine_without_the_libraries_is_told_what_to_install(tmp_path):
    packages = Path(sysconfig.get_paths()["purelib"])
    (tmp_path / "site").mkdir()
    for path in packages.iterdir():
        if not path.name.startswith(("skl2onnx", "skops")):
            (tmp_path / "site" / path.name).symlink_to(path)
    probe = (
        f"import sys; sys.path[:0] = [{str(tmp_path / 'site')!r}, {str(ROOT)!r}]\n"
        f"sys.argv = ['fleet', *'convert m.skops --name m --version 1 --data d.npz'.split()]\n"
        f"from fleet.cli.main import main; main()"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", probe], cwd=tmp_path, capture_output=True, text=True,
        env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "fleet: the converter is not installed: there is no skl2onnx, skops\n" in done.stderr
    assert "pip install 'modelfleet[converter]'" in done.stderr
