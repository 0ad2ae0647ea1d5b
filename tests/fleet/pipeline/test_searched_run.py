"""A run that searches its parameters, with real trials: by `[tune]`, and by a Katib Experiment."""

import json

import pytest

from fleet.pipeline.pipeline import run_pipeline
from fleet.pipeline.project import load_project
from fleet.pipeline.run import Options
from fleet.pipeline.searching import JOURNAL
from tests.fleet.pipeline.projects import TOML, make_folder
from wire.errors import ConfigError

SEARCHED = Options(until="tune", push=False)
TUNE = """
[tune]
trials = 2
metric = "log_loss"
direction = "minimize"
search.C = { low = 0.001, high = 10.0, log = true }
"""
EXPERIMENT = """
apiVersion: kubeflow.org/v1beta1
kind: Experiment
spec:
  objective: {type: maximize, objectiveMetricName: f1, goal: 0.99}
  algorithm: {algorithmName: grid}
  parallelTrialCount: 2
  maxTrialCount: 3
  parameters:
    - {name: C, parameterType: double, feasibleSpace: {min: "0.5", max: "2"}}
"""


def search(root, told):
    record = run_pipeline(load_project(root), SEARCHED, told)
    return record, json.loads((root / "runs" / record.id / "tuning.json").read_bytes())


def test_a_search_finds_parameters_and_a_longer_one_goes_on(tmp_path, told):
    root = make_folder(tmp_path / "p", toml=TOML + TUNE)
    record, found = search(root, told)
    assert record.tuned == found["best"]
    values = [trial["values"][0] for trial in found["trials"]]
    assert len(values) == 2
    assert found["values"][0] == min(values)
    (root / "pipeline.toml").write_text(TOML + TUNE.replace("= 2", "= 3"))
    _, longer = search(root, told)
    assert longer["trials"][:2] == found["trials"]
    assert len(longer["trials"]) == 3


def test_what_is_left_out_is_taken_from_the_experiment(tmp_path, told):
    root = make_folder(tmp_path / "p", toml=TOML + '\n[tune]\nkatib = "search.yaml"\n')
    (root / "search.yaml").write_text(EXPERIMENT)
    record, found = search(root, told)
    assert (found["metric"], found["direction"]) == ("f1", "maximize")
    assert len(found["trials"]) == 3
    assert any("goal" in line for line in told.lines)
    assert any("algorithm" in line for line in told.lines)
    (root / "search.yaml").write_text(EXPERIMENT.replace('"0.5"', '"0.6"'))
    other, _ = search(root, told)
    assert other.id != record.id
    assert (root / "runs" / JOURNAL).exists()


def test_what_the_file_says_goes_before_the_experiment(tmp_path, told):
    words = 'katib = "search.yaml"\ntrials = 1\nmetric = "accuracy"\n'
    root = make_folder(tmp_path / "p", toml=TOML + "\n[tune]\n" + words)
    (root / "search.yaml").write_text(EXPERIMENT)
    _, found = search(root, told)
    assert found["metric"] == "accuracy"
    assert len(found["trials"]) == 1


def test_a_figure_that_there_is_none_of_is_told(tmp_path, told):
    root = make_folder(tmp_path / "p", toml=TOML + TUNE.replace("log_loss", "Validation-accuracy"))
    with pytest.raises(ConfigError, match="Validation-accuracy"):
        search(root, told)
