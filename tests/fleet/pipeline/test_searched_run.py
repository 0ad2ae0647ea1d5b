"""A run that searches its parameters, with real trials: by `[tune]`, and by a Katib Experiment."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from fleet.pipeline.pipeline import run_pipeline
from fleet.pipeline.project import load_project
from fleet.pipeline.report import make_report
from fleet.pipeline.run import Options
from fleet.pipeline.searching import JOURNAL
from fleet.pipeline.snapshot import find_sources, read_snapshot
from fleet.pipeline.split import folds_of
from tests.fleet.pipeline.projects import TOML, make_folder, rows
from wire.errors import ConfigError

pytestmark = pytest.mark.slow

SEARCHED = Options(until="tune", push=False)
TUNE = """
[tune]
trials = 2
metric = "log_loss"
direction = "minimize"
search.C = { low = 0.001, high = 10.0, log = true }
"""
FOLDS = """
[tune]
trials = 8
folds = 2
metric = "log_loss"
direction = "minimize"
search.C = { low = 0.0001, high = 10.0, log = true }
"""
EXPERIMENT = """
apiVersion: kubeflow.org/v1beta1
kind: Experiment
spec:
  objective: {type: maximize, objectiveMetricName: f1, goal: 0.99}
  algorithm: {algorithmName: grid}
  earlyStopping: {algorithmName: medianstop}
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
    assert any("earlyStopping" in line for line in told.lines)
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


def fold_losses(root, parameters):
    """Return the loss of each of two folds, by scikit-learn alone."""
    project = load_project(root)
    snapshot = read_snapshot(project, find_sources(project))
    trained, buckets = snapshot.part("train"), snapshot.buckets[snapshot.parts == 0]
    losses = []
    for fold in (0, 1):
        is_left_out = folds_of(buckets, project.data.split, 2) == fold
        model = LogisticRegression(**parameters)
        model.fit(trained.values[~is_left_out], trained.labels[~is_left_out])
        said = model.predict_proba(trained.values[is_left_out])
        losses.append(log_loss(trained.labels[is_left_out], said))
    return losses


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trial_is_judged_by_folds_and_pruned_between_them(tmp_path, told):
    root = make_folder(tmp_path / "p", toml=TOML + FOLDS.replace("= 8", "= 6"))
    _, first = search(root, told)
    (root / "pipeline.toml").write_text(TOML + FOLDS)
    record, found = search(root, told)
    assert found["trials"][:6] == first["trials"]  # it went on
    states = [trial["state"] for trial in found["trials"]]
    assert states[:5] == ["complete"] * 5
    assert set(states) == {"complete", "pruned"}
    medians = []
    for trial in found["trials"]:
        losses = fold_losses(root, trial["parameters"])
        assert trial["reported"] == pytest.approx(losses[:1], rel=1e-4)
        if trial["state"] == "complete":
            assert trial["values"] == pytest.approx([np.mean(losses)], rel=1e-4)
            medians.append(trial["reported"][0])
        else:
            assert trial["values"] == []
            assert trial["reported"][0] > np.median(medians)
    complete = [trial["values"][0] for trial in found["trials"] if trial["values"]]
    assert found["values"] == [min(complete)]
    assert f"{states.count('pruned')} of them pruned" in told.details["tune"]
    assert "over 2 folds" in told.details["tune"]
    page = make_report(root / "runs" / record.id, record)
    assert "pruned" in page
    assert "1 of 2, mean" in page

    told.steps.clear()
    whole = run_pipeline(load_project(root), Options(until="train", push=False), told)
    assert ("tune", "cached") in told.steps
    assert ("train", "ran") in told.steps  # on all train rows, as no trial was
    assert whole.tuned == found["best"]


def test_a_fold_without_rows_is_told_and_no_validation_rows_are_needed(tmp_path, told):
    split = "split = { train = 0.8, validation = 0, test = 0.2 }\n"
    settings = TOML.replace('slices = ["site"]', f'key = "site"\n{split}')
    keyed = {**rows(120), "site": np.array([f"s{number // 10}" for number in range(120)])}
    many = FOLDS.replace("folds = 2", "folds = 10")
    root = make_folder(tmp_path / "p", toml=settings + many, columns=keyed)
    with pytest.raises(ConfigError, match=r"folds = 10: of \d+ train rows none is in fold"):
        search(root, told)
    one = FOLDS.replace("folds = 2", "folds = 1")
    (root / "pipeline.toml").write_text(settings + one)
    with pytest.raises(ConfigError) as refusal:
        search(root, told)
    assert "folds = 5" in refusal.value.hint
