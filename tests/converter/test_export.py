"""What skl2onnx is asked for, and what is put in order after it."""

import numpy as np
import onnx
import onnxruntime
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.feature_selection import RFE
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

from converter.export import (
    INPUT_NAME,
    IR_VERSION,
    export_estimator,
    keep_outputs,
    rename_output,
    tidy,
)
from converter.rows import canonical_rows
from wire.errors import BundleError


def run(model, rows):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT_NAME: rows}), strict=True))


def imports(model):
    return {entry.domain: entry.version for entry in model.opset_import}


def test_types_opset_and_format_are_what_the_oldest_runtime_loads(digits, classifier):
    model = export_estimator(classifier, digits.rows, "gauge")
    assert model.ir_version == IR_VERSION == 8
    assert imports(model)[""] <= 17
    assert imports(model)["ai.onnx.ml"] <= 3
    assert model.graph.name == "gauge"
    (given,) = model.graph.input
    assert given.name == "X"
    assert given.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [0, 4]
    assert [o.name for o in model.graph.output] == ["label", "probabilities"]
    assert all(o.type.HasField("tensor_type") for o in model.graph.output)  # no ZipMap


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (np.zeros((9, 2), np.float64), onnx.TensorProto.FLOAT),
        (np.zeros((9, 2), np.uint8), onnx.TensorProto.INT64),
        (np.zeros((9, 2), str), onnx.TensorProto.STRING),
    ],
)
def test_the_input_has_an_explicit_type(rows, kind):
    encoder = OneHotEncoder(sparse_output=False).fit(rows)
    model = export_estimator(encoder, canonical_rows(rows), "m")
    assert model.graph.input[0].type.tensor_type.elem_type == kind


def test_the_same_estimator_gives_the_same_bytes(digits):
    forest = RandomForestClassifier(5, random_state=0).fit(digits.rows, digits.label)
    made = [export_estimator(forest, digits.rows, "m").SerializeToString() for _ in range(2)]
    assert made[0] == made[1]


SCORED = [
    SVC(),
    SVC(kernel="linear"),
    LinearSVC(),
    RidgeClassifier(),
    SGDClassifier(random_state=0),
    make_pipeline(StandardScaler(), SVC()),
    make_pipeline(StandardScaler(), LinearSVC()),
    make_pipeline(StandardScaler(), make_pipeline(StandardScaler(), SVC())),
    make_pipeline(RFE(LogisticRegression(), n_features_to_select=2), LinearSVC()),
    GridSearchCV(LinearSVC(), {"C": [1.0, 2.0]}, cv=2),
    RandomizedSearchCV(RidgeClassifier(), {"alpha": [1.0, 2.0]}, n_iter=2, cv=2),
    GridSearchCV(make_pipeline(StandardScaler(), SVC()), {"svc__C": [1.0]}, cv=2),
]


@pytest.mark.parametrize("estimator", SCORED, ids=lambda e: str(e)[:60].replace("\n", ""))
def test_scores_stand_in_the_order_of_the_classes(digits, estimator):
    estimator.fit(digits.rows, digits.label)
    answers = run(export_estimator(estimator, digits.rows, "m"), digits.rows)
    scores = estimator.decision_function(digits.rows)
    assert list(answers) == ["label", "scores"]  # they are no probabilities
    assert np.array_equal(answers["label"], estimator.predict(digits.rows))
    assert np.allclose(answers["scores"], np.stack([-scores, scores], axis=1), atol=1e-4)


def test_voting_is_exported_with_its_default_settings(digits):
    parts = [("a", LogisticRegression()), ("b", GaussianNB())]
    for how in ("soft", "hard"):
        voting = VotingClassifier(parts, voting=how).fit(digits.rows, digits.label)
        answers = run(export_estimator(voting, digits.rows, "m"), digits.rows)
        assert np.array_equal(answers["label"], voting.predict(digits.rows))


def test_what_cannot_be_exported_is_said_in_one_line(digits):
    dummy = DummyClassifier().fit(digits.rows, digits.label)
    with pytest.raises(BundleError, match="skl2onnx cannot convert DummyClassifier: Unable") as bad:
        export_estimator(dummy, digits.rows, "m")
    assert bad.value.code == "export_failed"
    assert str(bad.value).isprintable()


def test_imports_that_stand_twice_are_merged_and_sorted(graph):
    model = graph([("Add", ["X", "X"], ["Y"])], ir=14)
    for domain, version in (("z", 1), ("", 9), ("ai.onnx.ml", 1), ("ai.onnx.ml", 3)):
        model.opset_import.append(onnx.helper.make_opsetid(domain, version))
    tidy(model)
    found = [(entry.domain, entry.version) for entry in model.opset_import]
    assert found == [("", 17), ("ai.onnx.ml", 3), ("z", 1)]
    assert model.ir_version == 8


def two_outputs(graph):
    outputs = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None, 4]) for n in "YZ"
    ]
    return graph([("Add", ["X", "X"], ["Y"]), ("Mul", ["Y", "X"], ["Z"])], outputs=outputs)


def test_only_named_outputs_are_kept(graph):
    model = two_outputs(graph)
    keep_outputs(model, {"Z"})
    assert run(model, np.full((1, 4), 3, np.float32))["Z"].tolist() == [[18.0] * 4]
    assert [output.name for output in model.graph.output] == ["Z"]


def test_an_output_is_renamed_wherever_it_is_used(graph):
    model = two_outputs(graph)
    rename_output(model, "Y", "twice")
    onnx.checker.check_model(model)
    answers = run(model, np.full((1, 4), 3, np.float32))
    assert list(answers) == ["twice", "Z"]
    assert answers["Z"].tolist() == [[18.0] * 4]


@pytest.mark.parametrize(("old", "new"), [("Y", "Z"), ("Y", "X"), ("none", "new")])
def test_no_name_is_taken_twice(graph, old, new):
    model = two_outputs(graph)
    before = model.SerializeToString()
    rename_output(model, old, new)
    assert model.SerializeToString() == before
