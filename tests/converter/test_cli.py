"""`fleet convert` as people and scripts meet it: the installed command, its words and its codes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import skops.io

from wire.bundle import read_bundle

ROOT = Path(__file__).parents[2]
FLEET = Path(sys.prefix) / "bin" / "fleet"


@pytest.fixture
def place(tmp_path, digits, doubling):
    """A directory with a model, and rows."""
    (tmp_path / "m.onnx").write_bytes(doubling.SerializeToString())
    np.savez(tmp_path / "d.npz", X=digits.rows, y=digits.label)
    return tmp_path


@pytest.fixture
def convert(place, fleet):
    """Return a function that converts with everything needed, and the given options."""

    def run(*options, source="m.onnx", check=None, **environment):
        needed = {"--name": "m", "--version": "1.0.0", "--data": "d.npz"}
        for option in options[::2]:
            needed.pop(option, None)
        argv = [text for pair in needed.items() for text in pair]
        return fleet("convert", source, *argv, *options, cwd=place, check=check, **environment)

    return run


def test_what_is_written_is_told_with_what_to_do_next(convert, place):
    done = convert(check=0)
    bundle = read_bundle(place / "m-1.0.0.bundle")
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == [
        "bundle", "manifest", "verdict", "golden", "next: fleet push m-1.0.0.bundle",
    ]  # fmt: skip
    assert f"manifest  {bundle.manifest_digest}\n" in done.stdout
    assert "no original to compare it with" in done.stdout
    assert "golden    256 rows, which devices test themselves with" in done.stdout
    assert [line.split()[0] for line in done.stderr.splitlines()] == [
        "reading", "converting", "comparing", "choosing",
    ]  # fmt: skip


def test_json_is_all_there_is_on_standard_output(convert, place):
    report = json.loads(convert("--output", "x.bundle", "--json", check=0).stdout)
    bundle = read_bundle(place / "x.bundle")
    assert report == {
        "output": "x.bundle",
        "name": "m",
        "version": "1.0.0",
        "manifest": bundle.manifest_digest,
        "bytes": (place / "x.bundle").stat().st_size,
        "verdict": "no_original",
        "row_count": 300,
        "golden_count": 256,
        "worst": [],
        "metrics": {},
        "warnings": [],
    }


@pytest.mark.slow
def test_every_declaration_is_in_the_manifest(convert, place):
    convert(
        "--p99-ms", "2.5", "--memory-mb", "64", "--device-class", "aarch64",
        "--nan-policy", "pass", "--code-commit", "c0ffee", "--timeout", "2m", check=0,
    )  # fmt: skip
    manifest = read_bundle(place / "m-1.0.0.bundle").manifest
    assert (manifest.budgets.p99_ms, manifest.budgets.memory_mb) == (2.5, 64)
    assert (manifest.device_class, manifest.nan_policy) == ("aarch64", "pass")
    assert manifest.lineage.code_commit == "c0ffee"


@pytest.mark.parametrize(
    "options",
    [
        ("--name", "a b"),
        pytest.param(("--version", "1:2"), marks=pytest.mark.slow),
        ("--p99-ms", "nan"),
        pytest.param(("--memory-mb", "much"), marks=pytest.mark.slow),
        pytest.param(("--nan-policy", "ignore"), marks=pytest.mark.slow),
        pytest.param(("--timeout", "soon"), marks=pytest.mark.slow),
        ("--colour", "red"),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_names_the_option(convert, place, options):
    done = convert(*options, check=2)
    assert done.stdout == ""
    assert options[0] in done.stderr.splitlines()[-1]
    assert not list(place.glob("*.bundle"))


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["--name", "--version", "--data"])
def test_what_is_needed_is_asked_for(fleet, place, missing):
    argv = ["--name", "m", "--version", "1", "--data", "d.npz"]
    position = argv.index(missing)
    del argv[position : position + 2]
    done = fleet("convert", "m.onnx", *argv, cwd=place, check=2)
    assert missing in done.stderr


@pytest.mark.parametrize(
    ("options", "source", "says"),
    [
        (("--data", "none.npz"), "m.onnx", ["cannot read none.npz: No such file or directory"]),
        pytest.param(
            *(("--data", "m.onnx"), "m.onnx", ["m.onnx is no .npz", "numpy.savez(path, X=rows"]),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *((), "none.onnx", ["cannot read none.onnx: No such file or directory"]),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *((), "d.npz", ["d.npz is of no kind that can be converted", "give a .skops, .onnx"]),
            marks=pytest.mark.slow,
        ),
        ((), "m.pkl", ["m.pkl is a pickle: loading it runs", "--trust-pickle"]),
        pytest.param(
            *((), "nothing_here:m", ["cannot import nothing_here:m", "from this directory"]),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(("--output", "no/x"), "m.onnx", ["cannot write no/x: there is no directory no"]),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(("--output", "/dev/null"), "m.onnx", ["something else than a file"]),
            marks=pytest.mark.slow,
        ),
        (("--output", "m.onnx"), "m.onnx", ["it is what is to be converted", "another --output"]),
    ],
)
def test_an_error_ends_with_1_and_says_what_to_do(convert, place, options, source, says):
    before = {path: path.read_bytes() for path in place.iterdir()}
    done = convert(*options, "--json", source=source, check=1)
    assert done.stdout == ""
    error = next(line for line in done.stderr.splitlines() if line.startswith("fleet: "))
    assert says[0] in error
    assert all(text in done.stderr for text in says)
    assert {path: path.read_bytes() for path in place.iterdir()} == before


def test_a_stranger_cannot_write_on_the_terminal(convert, place):
    (place / "odd.py").write_text("raise ValueError('\\x1b[2J\\x07\\r' + 'x' * 9999)")
    error = convert(source="odd:m", check=1).stderr
    assert "cannot import odd:m: ValueError" in error
    assert len(error) < 900
    assert error.replace("\n", "").isprintable()


@pytest.mark.slow
def test_any_name_of_a_file_can_be_written_and_told(convert, place):
    name = "with space, ü and \udcff.bundle"
    for form in ((), ("--json",)):
        done = convert("--output", name, *form, check=0, PYTHONIOENCODING="utf-8:strict")
        assert done.stdout
    assert read_bundle(place / name).manifest.name == "m"


def test_a_schema_of_tfdv_goes_into_the_bundle_in_its_own_words(convert, place):
    (place / "schema.pbtxt").write_text(
        'feature { name: "X[0]" type: FLOAT float_domain { min: -1 max: 99 }'
        ' unique_constraints { min: 2 max: 9 } annotation { tag: "device:reject" } }'
    )
    done = convert("--schema", "schema.pbtxt", check=0)
    assert "not checked on devices: 'X[0]': its unique_constraints" in done.stderr
    files = read_bundle(place / "m-1.0.0.bundle").files
    checks = {check["name"]: check for check in json.loads(files["schema.json"])["features"]}
    assert checks["X[0]"] == {"name": "X[0]", "low": -1, "high": 99, "range": "reject"}
    (place / "schema.pbtxt").write_text("feature {\n  type: FLOT\n}")
    assert "schema.pbtxt, line 2: column" in convert("--schema", "schema.pbtxt", check=1).stderr


def test_help_says_what_each_option_is_for(fleet, place):
    text = fleet("convert", "--help", cwd=place, check=0).stdout
    for option in ("--data", "--output", "--trust-pickle", "--nan-policy", "--timeout"):
        line = next(line for line in text.splitlines() if line.strip().startswith(option))
        assert len(line.split()) > 3, line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_who_is_told_to_end_leaves_nothing(place, number, code):
    (place / "tmp").mkdir()
    (place / "hangs.py").write_text(
        "import os, pathlib, signal\n"
        "pathlib.Path('pid').write_text(str(os.getpid()))\n"
        "signal.pause()\n"
    )
    before = sorted(place.rglob("*"))
    argv = ["convert", "hangs:m", "--name", "m", "--version", "1", "--data", "d.npz"]
    running = subprocess.Popen(
        [FLEET, *argv], cwd=place, env={**os.environ, "TMPDIR": str(place / "tmp")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    pid, deadline = place / "pid", time.monotonic() + 60
    while not (pid.exists() and pid.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(number)
    stdout, stderr = running.communicate(timeout=240)
    assert (running.returncode, stdout) == (code, "")
    assert "Traceback" not in stderr
    assert not psutil.pid_exists(int(pid.read_text()))  # it was waited for
    pid.unlink()
    assert sorted(place.rglob("*")) == before


@pytest.mark.slow
def test_an_estimator_is_converted_with_its_parity_in_words(convert, place, classifier):
    skops.io.dump(classifier, place / "m.skops")
    lines = convert(source="m.skops", check=0).stdout.splitlines()
    assert lines[2] == "verdict   parity with the original on 300 rows"
    assert lines[3] == "          label: all equal"
    assert re.fullmatch(r"          probabilities: off by at most \d(\.\d)?e-\d\d", lines[4])
    assert re.fullmatch(r"accuracy  0\.\d{4} on y", lines[6])


@pytest.mark.slow
def test_a_model_without_parity_ends_with_1_and_its_worst_row(convert, place, digits):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    analysis = LinearDiscriminantAnalysis().fit(digits.rows, digits.label)
    skops.io.dump(analysis, place / "m.skops")
    done = convert(source="m.skops", check=1)
    assert done.stdout == ""
    assert re.search(
        r"^fleet: converted and original disagree: probabilities: .* Worst is row \d+: X = \[",
        done.stderr, re.MULTILINE,
    )  # fmt: skip
    assert not list(place.glob("*.bundle"))


@pytest.mark.slow
def test_a_module_beside_the_user_is_converted(convert, place):
    (place / "mine.py").write_text(
        "from sklearn.linear_model import Ridge\nimport numpy as np\n"
        "def train(): return Ridge().fit(np.eye(4), [1, 2, 3, 4])\n"
    )
    convert(source="mine:train", check=0)
    assert read_bundle(place / "m-1.0.0.bundle").manifest.lineage.parameters["estimator"] == "Ridge"
    assert not (place / "__pycache__").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "files", "reported"),
    [
        ("v1", ("model.skops", "digits.npz"), ("parity", 2 * 1797)),
        ("v2", ("model.onnx", "digits-clipped.npz"), ("no_original", 1797)),
        ("v3", ("model.skops", "digits.npz"), ("parity", 2 * 1797)),
    ],
)
def test_the_example_is_trained_and_converted(fleet, tmp_path, variant, files, reported):
    source, data = files
    train = [sys.executable, ROOT / "examples" / "digits" / "train.py", "--variant", variant]
    done = subprocess.run(train, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.fullmatch(variant + r": accuracy 0\.9\d\d on 450 unseen digits\n", done.stdout)
    argv = ["--name", "digits", "--version", "1", "--data", data, "--json"]
    report = json.loads(fleet("convert", source, *argv, cwd=tmp_path, check=0).stdout)
    assert (report["verdict"], report["row_count"]) == reported
    assert report["metrics"]["accuracy"] > 0.95
    assert report["warnings"] == []
