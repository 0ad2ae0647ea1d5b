"""A run from rows to a bundle, with real conversions: cached, resumed, refused, the same everywhere."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

from fleet.pipeline.pipeline import run_pipeline
from fleet.pipeline.project import load_project
from fleet.pipeline.run import Options
from tests.fleet.pipeline.projects import TRAIN, make_folder, rows, write_parquet
from wire.bundle import read_bundle
from wire.errors import ConfigError, ModelfleetError

pytestmark = pytest.mark.slow

CHECKED = ["snapshot", "statistics", "schema", "validate"]
STEPS = [*CHECKED, "train", "convert", "evaluate", "card"]
DONE = Options(push=False)
HEEDING = """
import signal
from fleet.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""
"""The command as from a terminal: a shell's background jobs do not heed Ctrl-C, nor what they start."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder whose run is done; copied by who changes it."""
    root = make_folder(tmp_path_factory.mktemp("finished") / "p")
    run_pipeline(load_project(root), DONE, Silent())
    return root


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


class Silent:
    def began(self, step):
        pass

    def told(self, text):
        pass

    def ended(self, step, detail):
        pass


def states(told):
    return dict(told.steps)


def test_the_record_says_all_that_went_in_and_came_out(finished, records):
    (record,) = records(finished)
    assert record["state"] == "done"
    assert record["v"] == 1
    assert [step["name"] for step in record["steps"]] == STEPS
    assert record["data"]["row_count"] == 600
    assert sum(record["data"]["parts"].values()) == 600
    assert record["data"]["sources"][0]["path"] == "data/rows.parquet"
    assert record["code"]["files"] == ["train.py"]
    assert record["params"] == {"C": 1.0}
    assert record["validation"] == {
        "verdict": "valid", "anomalies": [], "unmade": [], "unchecked": []
    }  # fmt: skip
    assert 0.8 < record["metrics"]["accuracy"] <= 1
    assert record["verdict"]["outcome"] == "inconclusive"
    assert "No limit was judged" in " ".join(record["verdict"]["reasons"])
    assert record["libraries"].keys() >= {"python", "numpy", "scikit-learn", "onnx"}
    bundle = read_bundle(finished / "runs" / record["id"] / "model.bundle")
    assert record["bundle"]["manifest"] == bundle.manifest_digest
    assert bundle.manifest.lineage.data_sha256 == record["data"]["reference_sha256"]
    assert bundle.manifest.inputs[0].feature_names == ("a", "b", "c")
    assert record["id"].encode() not in b"".join(bundle.files.values())


def test_the_same_folder_gives_the_same_bundle_elsewhere(finished, tmp_path, told, records):
    other = make_folder(tmp_path / "another" / "place")
    run_pipeline(load_project(other), DONE, told)
    assert set(states(told).values()) == {"ran"}
    (mine,), (theirs,) = records(other), records(finished)
    assert mine["id"] == theirs["id"]
    assert mine["bundle"] == theirs["bundle"]
    assert mine["data"] == theirs["data"]


def test_a_second_run_does_nothing_again(copy, told, records):
    before = records(copy)
    run_pipeline(load_project(copy), DONE, told)
    assert told.steps == [(name, "cached") for name in STEPS]
    (record,) = records(copy)
    assert record["bundle"] == before[0]["bundle"]
    assert record["data"] == before[0]["data"]


def test_force_does_all_of_it_again(copy, told):
    run_pipeline(load_project(copy), Options(push=False, is_forced=True, until="train"), told)
    assert told.steps == [(name, "ran") for name in (*CHECKED, "train")]


def test_a_parameter_trains_again_and_keeps_the_rows(copy, told, records):
    project = load_project(copy).with_params({"C": 0.01})
    record = run_pipeline(project, Options(push=False, until="train"), told)
    assert told.steps == [*((name, "cached") for name in CHECKED), ("train", "ran")]
    assert len(records(copy)) == 2
    assert record.params == {"C": 0.01}


def test_code_beside_the_function_counts_and_what_is_no_code_does_not(copy, told):
    (copy / "notes.txt").write_text("x")
    (copy / "runs/x.py").write_text("x")
    run_pipeline(load_project(copy), DONE, told)
    assert states(told)["train"] == "cached"
    (copy / "features.py").write_text("x = 1\n")
    run_pipeline(load_project(copy), Options(push=False, until="train"), told)
    assert states(told)["train"] == "ran"


def test_rows_in_another_format_train_nothing_again(copy, told):
    parquet.write_table(pa.table(rows()), copy / "data/rows.parquet", compression="gzip")
    run_pipeline(load_project(copy), DONE, told)
    # The card names the files and their digests.
    expected = [("snapshot", "ran"), *((name, "cached") for name in STEPS[1:-1]), ("card", "ran")]
    assert told.steps == expected


def test_new_rows_are_another_run(copy, told, records):
    write_parquet(copy / "data/more.parquet", rows(200, seed=9))
    run_pipeline(load_project(copy), Options(push=False, until="snapshot"), told)
    assert {record["data"]["row_count"] for record in records(copy)} == {600, 800}


def test_what_was_damaged_is_made_again(copy, told):
    (estimator,) = (copy / "runs/cache").glob("train-*/estimator.skops")
    estimator.write_bytes(b"x")
    run_pipeline(load_project(copy), DONE, told)
    assert states(told)["train"] == "ran"


def test_a_failure_is_in_the_record_and_the_report(copy, told, records):
    (copy / "train.py").write_text("def train(data, params):\n    raise ValueError('<b>no</b>')\n")
    with pytest.raises(ModelfleetError) as caught:
        run_pipeline(load_project(copy), DONE, told)
    assert caught.value.code == "train_failed"
    (record,) = [record for record in records(copy) if record["state"] == "failed"]
    assert record["failure"]["step"] == "train"
    assert record["failure"]["code"] == "train_failed"
    report = (copy / "runs" / record["id"] / "report.html").read_text()
    assert "&lt;b&gt;no&lt;/b&gt;" in report
    assert "<b>no" not in report
    assert "ValueError" in (copy / "runs" / record["id"] / "train.log").read_text()


class Faulty(Silent):
    def ended(self, step, detail):
        if step.name == "validate":
            raise ZeroDivisionError("who told it")


def test_a_fault_of_the_program_is_no_interruption(copy, records):
    write_parquet(copy / "data/rows.parquet", rows(seed=5))
    with pytest.raises(ZeroDivisionError):
        run_pipeline(load_project(copy), DONE, Faulty())
    (record,) = [record for record in records(copy) if record["state"] == "failed"]
    assert record["failure"]["code"] == "unforeseen"
    assert record["failure"]["message"] == "ZeroDivisionError: who told it"


def test_a_model_that_cannot_be_converted_is_refused(copy, told):
    code = TRAIN.replace("LogisticRegression", "NearestCentroid")
    code = code.replace("linear_model", "neighbors").replace("**params", "")
    (copy / "train.py").write_text(code)
    with pytest.raises(ModelfleetError):
        run_pipeline(load_project(copy), DONE, told)
    assert states(told)["convert"] == "failed"


def test_two_runs_in_one_folder_do_not_meet(copy, told):
    with (copy / "runs/lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError) as caught:
            run_pipeline(load_project(copy), DONE, told)
    assert caught.value.code == "run_going_on"
    assert told.steps == []


def test_a_release_without_a_fleet_is_refused_before_any_work(copy, told):
    with pytest.raises(ConfigError) as caught:
        run_pipeline(load_project(copy), Options(push=True), told)
    assert caught.value.code == "no_fleet"
    assert [name for name, state in told.steps if state != "failed"] == []


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_ended_in_the_middle_goes_on(tmp_path, fleet, records, told, end):
    """The training stops where a pipe is not read, so that the end comes in the middle for sure."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    wait = f"    open({str(pipe)!r}, 'w').write('here')\n    return"
    folder = make_folder(tmp_path / "p", train=TRAIN.replace("    return", wait))
    process = subprocess.Popen(
        [sys.executable, "-c", HEEDING, "pipeline", "run", str(folder)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    descriptor = os.open(pipe, os.O_RDONLY)  # until the training opens it too
    process.send_signal(end)
    _, said = process.communicate(timeout=240)
    os.close(descriptor)
    assert process.returncode != 0
    assert b"Traceback" not in said
    (record,) = records(folder)
    assert record["state"] == ("running" if end == signal.SIGKILL else "interrupted")
    shown = fleet("pipeline", "show", "-C", folder).stdout
    assert "interrupted" in shown
    # Nobody trains any more, or it would write into the pipe of the next one.
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:  # noqa: PTH123
        run_pipeline(load_project(folder), Options(push=False, until="train"), told)
        assert reader.read() == b"here"
    assert told.steps == [*((name, "cached") for name in CHECKED), ("train", "ran")]
    assert not list(folder.glob("runs/cache/.part-*"))


def test_the_command_tells_each_step_and_what_to_do_next(copy, fleet):
    done = fleet("pipeline", "run", cwd=copy)
    assert [line.split()[:2] for line in done.stderr.splitlines()] == [
        [name, "cached"] for name in STEPS
    ]
    assert "verdict" in done.stdout
    assert "next:" not in done.stdout  # it was not blessed
    record = json.loads(fleet("pipeline", "run", copy, "--json").stdout)
    assert record["state"] == "done"
    listed = json.loads(fleet("pipeline", "list", "--json", cwd=copy).stdout)
    assert [entry["id"] for entry in listed] == [record["id"]]
    shown = json.loads(fleet("pipeline", "show", record["id"][:5], "--json", cwd=copy).stdout)
    assert shown["bundle"] == record["bundle"]
    assert record["id"] in fleet("pipeline", "list", cwd=copy).stdout
    assert "C = 1.0" in fleet("pipeline", "show", cwd=copy).stdout


def test_compare_shows_what_differs_and_nothing_else(copy, fleet):
    first = json.loads(fleet("pipeline", "list", "--json", cwd=copy).stdout)[0]["id"]
    ran = fleet("pipeline", "run", copy, "--param", "C=0.001", "--until", "train", "--json")
    second = json.loads(ran.stdout)["id"]
    found = json.loads(fleet("pipeline", "compare", first, second, "--json", cwd=copy).stdout)
    names = {difference["what"] for difference in found["differences"]}
    assert "parameter C" in names
    assert not names & {"data", "code", "rows", "seed"}
    assert "parameter C" in fleet("pipeline", "compare", first, second, cwd=copy).stdout
    same = fleet("pipeline", "compare", first, first, cwd=copy).stdout
    assert "do not differ" in same


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["run", "--until", "nonsense"], 2, "snapshot"),
        (["run", "--param", "C"], 2, "is not NAME=VALUE"),
        (["run", "--param", "D=1"], 1, "has no such name"),
        (["run", "--trigger", "none.json"], 2, "cannot read"),
        (["show", "ffff"], 1, "no run ffff"),
        (["show", "../../etc"], 1, "no run"),
    ],
)
def test_wrong_words_are_told(copy, fleet, words, code, says):
    done = fleet("pipeline", *words, cwd=copy, check=code)
    assert says in done.stderr


def test_the_evidence_of_a_trigger_is_kept(copy, fleet, tmp_path):
    (tmp_path / "e.json").write_text('{"why": "drift of <a>"}')
    words = ["pipeline", "run", copy, "--trigger", tmp_path / "e.json", "--json"]
    assert json.loads(fleet(*words).stdout)["trigger"] == {"why": "drift of <a>"}
    (report,) = copy.glob("runs/*/report.html")
    assert "drift of &lt;a&gt;" in report.read_text()
    (tmp_path / "e.json").write_text('{"a": 1, "a": 2}')
    fleet(*words, check=2)


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["digits", "diabetes"])
def test_a_new_folder_runs_as_it_is(fleet, tmp_path, starter):
    fleet("pipeline", "init", tmp_path / "new", "--from", starter)
    record = json.loads(fleet("pipeline", "run", tmp_path / "new", "--json").stdout)
    assert record["state"] == "done"
    assert record["metrics"]
    again = fleet("pipeline", "init", tmp_path / "new", "--from", starter, check=1)
    assert "not empty" in again.stderr


def test_what_one_cannot_begin_with_is_told(fleet, tmp_path):
    assert "digits" in fleet("pipeline", "init", tmp_path / "n", "--from", "x", check=1).stderr
    assert not (tmp_path / "n").exists()


def test_a_record_of_another_make_is_not_believed(copy, fleet):
    (path,) = copy.glob("runs/*/run.json")
    path.write_text('{"v": 1}')
    assert "no run yet" in fleet("pipeline", "list", cwd=copy).stdout
    assert "run.json" in fleet("pipeline", "show", path.parent.name, cwd=copy, check=1).stderr
