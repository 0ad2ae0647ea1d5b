"""A real model in Triton's layout answers as it does in its bundle."""

import json
import re
import subprocess
import sys

import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from converter import answer, convert

ASK = """
import json
import sys
import numpy as np
import onnxruntime

model, name, rows, out = sys.argv[1:]
values = np.load(rows)
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
tensors = (*session.get_inputs(), *session.get_outputs())
print(json.dumps({t.name: [d if isinstance(d, int) else -1 for d in t.shape] for t in tensors}))
names = [output.name for output in session.get_outputs()]
fed = {name: values.astype(object) if values.dtype.kind == "U" else values}
answers = zip(names, session.run(names, fed))
np.savez(out, **{n: a.astype(str) if a.dtype.kind == "O" else a for n, a in answers})
"""
TENSOR = re.compile(
    r'(?:input|output) \{\n  name: "(\w+)"\n  data_type: TYPE_(\w+)\n  dims: \[ (\d+) \]\n(  reshape)?'
)


def export(fleet, bundle, folder):
    """Export as a user does; return type, dims and the model's own shape of each tensor."""
    done = fleet("export", "triton", bundle, "--output", "triton", cwd=folder, check=0)
    assert done.stderr == ""
    text = (folder / "triton/m/config.pbtxt").read_text()
    assert "max_batch_size: 256\n" in text
    return {
        name: (datatype, int(dims), [-1] if reshaped else [-1, int(dims)])
        for name, datatype, dims, reshaped in TENSOR.findall(text)
    }


def ask_exported(folder, name, rows):
    """Ask onnxruntime the exported file, in a process of its own; return the answers and the shapes
    that it knows the tensors by."""
    np.save(folder / "rows.npy", rows)
    argv = [folder / "triton/m/1/model.onnx", name, folder / "rows.npy", folder / "answers.npz"]
    done = subprocess.run(
        [sys.executable, "-c", ASK, *argv], check=True, timeout=120, stdout=subprocess.PIPE
    )
    with np.load(folder / "answers.npz") as found:
        return dict(found), json.loads(done.stdout)


def check_answers(bundle, told, rows, folder):
    """Compare with the bundle's answers; shapes as Triton does, which wants them equal."""
    name = next(iter(told))
    found, shapes = ask_exported(folder, name, rows)
    expected = answer(bundle, rows)
    assert found.keys() == expected.keys() == told.keys() - {name}
    for output, values in expected.items():
        assert np.array_equal(found[output], values), output
    assert shapes == {tensor: shape for tensor, (_, _, shape) in told.items()}
    return expected


def test_a_classifier_answers_as_in_its_bundle(ask, classifier, digits, fleet, tmp_path):
    request = ask(classifier, digits.rows, digits.label)
    convert(request, [].append)
    told = export(fleet, request.output, tmp_path)
    assert told == {
        "X": ("FP32", 4, [-1, 4]),
        "label": ("INT64", 1, [-1]),
        "probabilities": ("FP32", 2, [-1, 2]),
    }
    check_answers(request.output, told, digits.rows, tmp_path)


def test_a_regressor_answers_as_in_its_bundle(ask, digits, fleet, tmp_path):
    request = ask(LinearRegression().fit(digits.rows, digits.value), digits.rows, digits.value)
    convert(request, [].append)
    told = export(fleet, request.output, tmp_path)
    assert told == {"X": ("FP32", 4, [-1, 4]), "variable": ("FP32", 1, [-1, 1])}
    check_answers(request.output, told, digits.rows, tmp_path)


def test_text_goes_in_and_comes_out_as_in_its_bundle(ask, fleet, tmp_path):
    rows = np.array([["red", "s"], ["blue", "m"], ["red", "l"], ["green", "s"]] * 20)
    labels = np.array(["warm", "cold", "warm", "cold"] * 20)
    model = make_pipeline(
        make_column_transformer((OneHotEncoder(handle_unknown="ignore"), [0, 1])),
        LogisticRegression(),
    ).fit(rows, labels)
    request = ask(model, rows, labels)
    convert(request, [].append)
    told = export(fleet, request.output, tmp_path)
    assert [datatype for datatype, _, _ in told.values()] == ["STRING", "STRING", "FP32"]
    answered = check_answers(request.output, told, rows, tmp_path)
    assert answered["label"].tolist() == labels.tolist()
