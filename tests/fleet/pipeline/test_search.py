"""Search spaces from a project and from Katib, and what is wrong with one that cannot be searched."""

import pytest

from fleet.pipeline.katib import read_katib
from fleet.pipeline.objectives import Objective
from fleet.pipeline.search import Choice, Range, read_space
from wire.errors import ConfigError


def test_ranges_and_choices_are_read_in_their_order():
    space = read_space(
        {
            "C": {"low": 0.01, "high": 10, "log": True},
            "depth": {"low": 1, "high": 9},
            "leaf": {"low": 2, "high": 9, "step": 3},
            "rate": {"low": 0.0, "high": 1.0, "step": 0.3},
            "kind": {"choices": ["a", "b"]},
            "flag": {"choices": [True, False, 1]},
            "width": {"low": 1, "high": 4, "type": "float"},
        }
    )
    assert list(space.items()) == [
        ("C", Range(0.01, 10.0, is_log=True)),
        ("depth", Range(1, 9, is_whole=True)),
        ("leaf", Range(2, 8, is_whole=True, step=3)),
        ("rate", Range(0.0, pytest.approx(0.9), step=0.3)),
        ("kind", Choice(("a", "b"))),
        ("flag", Choice((True, False, 1))),
        ("width", Range(1.0, 4.0)),
    ]
    assert isinstance(space["depth"].low, int)


def test_a_step_that_fits_up_to_rounding_keeps_the_end():
    assert read_space({"x": {"low": 0.1, "high": 0.7, "step": 0.1}})["x"].high == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("given", "where", "says"),
    [
        (3, "x", "must be a table"),
        ({}, "x", "high is missing"),
        ({"low": 1}, "x", "high is missing"),
        ({"low": 1, "high": 2, "lag": True}, "x.lag", "unknown key"),
        ({"low": 1, "high": 2, "log": 1}, "x.log", "true or false"),
        ({"low": True, "high": 2}, "x.low", "a number"),
        ({"low": "1", "high": 2}, "x.low", "a number"),
        ({"low": 1, "high": float("inf")}, "x.high", "finite"),
        ({"low": 2, "high": 2}, "x", "low must be below high"),
        ({"low": 0, "high": 2, "log": True}, "x.low", "above 0"),
        ({"low": 1, "high": 2, "log": True, "step": 1}, "x.step", "does not go"),
        ({"low": 1, "high": 2, "step": 0}, "x.step", "above 0"),
        ({"low": 1, "high": 2, "step": 5}, "x.step", "at most"),
        ({"low": 1, "high": 5, "step": 1.5}, "x", "whole step"),
        ({"low": 1.5, "high": 5, "type": "int"}, "x", "whole ends"),
        ({"low": 1, "high": 5, "type": "str"}, "x.type", "int or float"),
        ({"choices": "ab"}, "x.choices", "a list"),
        ({"choices": []}, "x.choices", "1 to 1000"),
        ({"choices": [[1]]}, "x.choices", "numbers, strings"),
        ({"choices": [float("nan")]}, "x.choices", "numbers, strings"),
        ({"choices": [1, 1]}, "x.choices", "twice"),
        ({"choices": [1], "low": 1}, "x.low", "does not go with choices"),
    ],
)
def test_what_cannot_be_searched_names_its_key(given, where, says):
    with pytest.raises(ConfigError) as caught:
        read_space({"x": given})
    assert caught.value.code == "search_invalid"
    assert str(caught.value).startswith(f"[tune] search.{where}: ")
    assert says in str(caught.value)


@pytest.mark.parametrize("search", [{}, {f"x{i}": {"choices": [1]} for i in range(65)}])
def test_a_space_has_some_parameters(search):
    with pytest.raises(ConfigError, match="1 to 64 parameters"):
        read_space(search)


def test_a_name_is_one_of_pythons():
    with pytest.raises(ConfigError, match="name"):
        read_space({"a b": {"choices": [1]}})


EXPERIMENT = """
apiVersion: kubeflow.org/v1beta1
kind: Experiment
metadata:
  namespace: kubeflow
  name: tpe
spec:
  objective:
    type: minimize
    goal: 0.001
    objectiveMetricName: loss
    additionalMetricNames: [Train-accuracy]
  algorithm:
    algorithmName: cmaes
  parallelTrialCount: 3
  maxTrialCount: 12
  maxFailedTrialCount: 3
  parameters:
    - name: lr
      parameterType: double
      feasibleSpace: {min: "0.01", max: "0.05"}
    - name: momentum
      parameterType: double
      feasibleSpace: {min: "0.5", max: "0.9", step: "0.1", distribution: uniform}
    - name: units
      parameterType: int
      feasibleSpace: {min: 32, max: 64, step: 16}
    - name: batch-size
      parameterType: int
      feasibleSpace: {min: "32", max: "64", distribution: logUniform}
    - name: decay
      parameterType: double
      feasibleSpace: {min: "1e-6", max: "1e-2", step: "0.1", distribution: logNormal}
    - name: layers
      parameterType: discrete
      feasibleSpace: {list: ["2", "3.5", "5"]}
    - name: optimizer
      parameterType: categorical
      feasibleSpace: {list: [sgd, adam, ftrl]}
  trialTemplate:
    trialSpec: {apiVersion: batch/v1, kind: Job}
"""


def test_a_katib_experiment_is_a_search():
    found = read_katib(EXPERIMENT)
    assert found.space == {
        "lr": Range(0.01, 0.05),
        "momentum": Range(0.5, pytest.approx(0.9), step=0.1),
        "units": Range(32, 64, is_whole=True, step=16),
        "batch-size": Range(32, 64, is_whole=True, is_log=True),
        "decay": Range(1e-6, 1e-2, is_log=True),
        "layers": Choice((2, 3.5, 5)),
        "optimizer": Choice(("sgd", "adam", "ftrl")),
    }
    assert found.objective == Objective("loss", "minimize")
    assert (found.trials, found.jobs) == (12, 3)
    assert found.notes == (
        "The algorithm cmaes is not Optuna's TPE, which searches here.",
        "The goal 0.001 does not end the search: all trials are made.",
        "decay is searched evenly, not by logNormal.",
        "decay has no step: it is searched by factors.",
    )


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("kind: Experiment", "kind: Suggestion", "kind"),
        ("kubeflow.org/v1beta1", "kubeflow.org/v1", "apiVersion"),
        ("parameterType: double", "parameterType: complex", "parameterType"),
        ("name: lr", "name: momentum", "twice"),
        ('max: "0.05"', 'most: "0.05"', "parameter lr: feasibleSpace needs min and max"),
        ('max: "0.05"', 'max: "much"', "'much' is no number"),
        ('max: "0.05"', 'max: ".inf"', "no number"),
        ('max: "0.05"', 'max: "1e999"', "not finite"),
        ("distribution: uniform", "distribution: poisson", "no distribution poisson"),
        ("type: minimize", "type: middle", "objective"),
        ("maxTrialCount: 12", "maxTrialCount: 0", "maxTrialCount"),
        ("kind: Experiment", "kind: [", "no YAML"),
        ("kind: Experiment", "kind: !!python/object:os.system x", "no YAML"),
    ],
)
def test_what_is_no_experiment_is_told(old, new, says):
    assert old in EXPERIMENT
    with pytest.raises(ConfigError) as caught:
        read_katib(EXPERIMENT.replace(old, new, 1))
    assert caught.value.code == "katib_invalid"
    assert says in str(caught.value)


def test_a_range_of_katib_that_makes_no_sense_names_its_parameter():
    with pytest.raises(ConfigError, match="parameter lr: low must be below high"):
        read_katib(EXPERIMENT.replace('min: "0.01"', 'min: "0.5"'))


@pytest.mark.parametrize("text", ["", "[]", "a: &a [*a]", "[" * 100_000, "x" * 300_000, "\x00"])
def test_hostile_yaml_is_refused(text):
    with pytest.raises(ConfigError) as caught:
        read_katib(text)
    assert caught.value.code == "katib_invalid"


def test_references_that_would_grow_without_end_are_never_followed():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    with pytest.raises(ConfigError):
        read_katib("\n".join([*lines, "spec: {parameters: *a29}"]))
