"""Real models, small: data from a seed, estimators that are fitted, graphs made with onnx.helper."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import skops.io
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression

from agent.control import Model
from agent.runtime.selftest import run_golden
from agent.runtime.session import LoadedModel
from converter import ConvertRequest, convert
from wire.bundle import read_bundle
from wire.errors import ModelfleetError

FLEET = Path(sys.prefix) / "bin" / "fleet"


@pytest.fixture(scope="session")
def digits():
    """Rows that a straight line nearly separates, and a label and a value for each."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(300, 4)).astype(np.float32)
    label = (rows[:, 0] + rows[:, 1] / 2 + random.normal(size=300) * 0.3 > 0).astype(np.int64)
    return SimpleNamespace(rows=rows, label=label, value=rows @ np.float32([1, 2, 3, 4]))


@pytest.fixture(scope="session")
def classifier(digits):
    """A fitted estimator; never to be changed."""
    return LogisticRegression().fit(digits.rows, digits.label)


@pytest.fixture(scope="session")
def graph():
    """Return a function that makes ONNX models out of nodes."""

    def make(nodes, inputs=None, outputs=None, *, constants=(), opset=17, ir=8):
        inputs = inputs or [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 4])]
        outputs = outputs or [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [None, 4])]
        made = helper.make_graph(
            [helper.make_node(*node[:3], **(node[3] if len(node) > 3 else {})) for node in nodes],
            "g",
            inputs,
            outputs,
            [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in constants],
        )
        return helper.make_model(
            made, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir
        )

    return make


@pytest.fixture(scope="session")
def doubling(graph):
    """A model that answers X + X."""
    return graph([("Add", ["X", "X"], ["Y"])])


@pytest.fixture(scope="session")
def ask_in():
    """Return a function that gives `ask` for a folder."""
    return asker


@pytest.fixture
def ask(tmp_path):
    """Return a function that makes a request, with its files below `tmp_path`."""
    return asker(tmp_path)


def asker(folder):
    def make(source, rows, labels=None, *, output="out/m.bundle", **options):
        if isinstance(source, onnx.ModelProto):
            (folder / "model.onnx").write_bytes(source.SerializeToString())
            source = folder / "model.onnx"
        elif not isinstance(source, (str, Path)):
            skops.io.dump(source, folder / "model.skops")
            source = folder / "model.skops"
        data = rows
        if not isinstance(rows, Path):
            data = folder / "data.npz"
            named = {"X": rows} if labels is None else {"X": rows, "y": labels}
            np.savez(data, **named)
        (folder / output).parent.mkdir(exist_ok=True)
        return ConvertRequest(
            source=str(source),
            name="m",
            version="1.0.0",
            data=data,
            output=folder / output,
            **options,
        )

    return make


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """A temporary directory of our own, to see what is left in it."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(path))
    return path


@pytest.fixture
def converted(scratch):
    """Return a function that converts for good, reads the bundle back and sees nothing left."""

    def run(request):
        steps = []
        report = convert(request, steps.append)
        assert list(scratch.iterdir()) == []
        assert [path.name for path in request.output.parent.iterdir()] == [request.output.name]
        assert steps[0].startswith("reading ")
        return read_back(request, report)

    return run


@pytest.fixture(scope="session")
def opened():
    """Return a function that reads back what was converted."""
    return read_back


def read_back(request, report):
    bundle = read_bundle(request.output)
    assert report.manifest == bundle.manifest_digest
    assert report.bytes == request.output.stat().st_size
    return SimpleNamespace(
        request=request,
        report=report,
        bundle=bundle,
        manifest=bundle.manifest,
        parity=json.loads(bundle.files["parity.json"]),
        baseline=json.loads(bundle.files["baseline.json"]),
        golden=unpack(bundle.files["golden.npz"]),
    )


@pytest.fixture
def refused(scratch):
    """Return a function that converts in vain: the error has the code and leaves nothing."""

    def run(request, code):
        with pytest.raises(ModelfleetError) as caught:
            convert(request, [].append)
        error = caught.value
        assert error.code == code, f"{error.code}: {error}"
        assert_is_a_sentence(str(error))
        assert list(scratch.iterdir()) == []
        assert not request.output.exists()
        if request.output.parent.is_dir():
            assert not list(request.output.parent.glob(".*"))
        return error

    return run


@pytest.fixture(scope="session")
def fleet():
    """Return a function that runs the installed command."""

    def run(*argv, cwd, check=None, timeout=240, **environment):
        done = subprocess.run(
            [FLEET, *map(str, argv)],
            cwd=cwd, capture_output=True, text=True, errors="replace", check=False,
            stdin=subprocess.DEVNULL, env={**os.environ, **environment}, timeout=timeout,
        )  # fmt: skip
        assert "Traceback" not in done.stdout + done.stderr
        if check is not None:
            assert done.returncode == check, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def serve(tmp_path):
    """Return a function that loads a bundle as a device does, self-test included."""

    def load(bundle):
        folder = tmp_path / "device"
        folder.mkdir(exist_ok=True)
        for name, content in bundle.files.items():
            (folder / name).write_bytes(content)
        paths = {name: str(folder / name) for name in bundle.files}
        manifest = bundle.manifest
        model = LoadedModel(
            Model(manifest.name, manifest.version, bundle.manifest_digest, paths, None)
        )
        run_golden(model)
        return model

    return load


@pytest.fixture(scope="session")
def load_npz():
    return unpack


def unpack(content):
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def assert_is_a_sentence(text):
    """A person can read it: one line, not endless, of nothing that a terminal would obey."""
    assert 10 < len(text) < 700
    assert text.isprintable(), text


@pytest.fixture(scope="session")
def forge():
    """Return a function that writes a .skops whose object is what a stranger says it is."""

    def write(path, node):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(
                "schema.json", json.dumps({**node, "protocol": 2, "_skops_version": "0.13.0"})
            )
        return path

    return write


def missing(reason):
    """Leave the test out and say so; in CI, which has to have everything, fail."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@pytest.fixture(scope="session")
def require_root():
    if os.geteuid() != 0:
        missing("not root: no file system of its own, no network namespace")
