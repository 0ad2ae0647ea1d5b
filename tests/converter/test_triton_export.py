"""A real model in Triton's layout answers as it does in its bundle."""

import re
import subprocess
import sys

import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from converter import answer, convert

ASK = """
import sys
import numpy as np
import onnxruntime

model, name, rows, out = sys.argv[1:]
values = np.load(rows)
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
fed = {name: values.astype(object) if values.dtype.kind == "U" else values}
answers = zip(names, session.run(names, fed))
np.savez(out, **{n: a.astype(str) if a.dtype.kind == "O" else a for n, a in answers})
"""


def ask_exported(folder, name, rows, scratch):
    """Return what onnxruntime answers, in a process of its own and by the exported file alone."""
    np.save(scratch / "rows.npy", rows)
    argv = [folder / "m/1/model.onnx", name, scratch / "rows.npy", scratch / "answers.npz"]
    subprocess.run([sys.executable, "-c", ASK, *argv], check=True, timeout=120)
    with np.load(scratch / "answers.npz") as found:
        return dict(found)


def exported(fleet, bundle, folder):
    """Export as a user does; return the names, types and dims that Triton is told."""
    fleet("export", "triton", bundle, "--output", "triton", cwd=folder, check=0)
    text = (folder / "triton/m/config.pbtxt").read_text()
    found = re.findall(
        r'(input|output) \{\n  name: "(\w+)"\n  data_type: (\w+)\n  dims: \[ ([\d, ]+) \]', text
    )
    assert "max_batch_size: 256\n" in text
    return found


def test_a_classifier_answers_as_in_its_bundle(ask, classifier, digits, fleet, tmp_path):
    request = ask(classifier, digits.rows, digits.label)
    convert(request, [].append)
    assert exported(fleet, request.output, tmp_path) == [
        ("input", "X", "TYPE_FP32", "4"),
        ("output", "label", "TYPE_INT64", "1"),
        ("output", "probabilities", "TYPE_FP32", "2"),
    ]
    found = ask_exported(tmp_path / "triton", "X", digits.rows, tmp_path)
    expected = answer(request.output, digits.rows)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(found[name], values), name


def test_text_goes_in_and_comes_out_as_in_its_bundle(ask, fleet, tmp_path):
    rows = np.array([["red", "s"], ["blue", "m"], ["red", "l"], ["green", "s"]] * 20)
    labels = np.array(["warm", "cold", "warm", "cold"] * 20)
    model = make_pipeline(
        make_column_transformer((OneHotEncoder(handle_unknown="ignore"), [0, 1])),
        LogisticRegression(),
    ).fit(rows, labels)
    request = ask(model, rows, labels)
    convert(request, [].append)
    told = exported(fleet, request.output, tmp_path)
    assert [(kind, datatype) for kind, _, datatype, _ in told] == [
        ("input", "TYPE_STRING"), ("output", "TYPE_STRING"), ("output", "TYPE_FP32"),
    ]  # fmt: skip
    found = ask_exported(tmp_path / "triton", told[0][1], rows, tmp_path)
    expected = answer(request.output, rows)
    assert found["label"].tolist() == expected["label"].tolist() == labels.tolist()
    assert np.array_equal(found["probabilities"], expected["probabilities"])
