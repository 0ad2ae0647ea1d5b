"""A step's key changes exactly when one of its inputs does."""

import pytest

from fleet.pipeline.project import FILE_NAME, parse_project
from fleet.pipeline.snapshot import Source
from fleet.pipeline.steps import (
    convert_inputs,
    key_of,
    run_id,
    snapshot_inputs,
    train_inputs,
)

TOML = """
[model]
name = "m"
kind = "classifier"
p99_ms = 5
[data]
sources = ["a.csv"]
label = "y"
slices = ["site"]
[train]
seed = 1
params = { C = 1.0, penalty = "l2" }
timeout = "1m"
[release]
version = "auto"
[rollout]
soak = "1m"
"""
SOURCES = (Source("a.csv", "aa" * 32), Source("b.csv", "bb" * 32))
LIBRARIES = {"numpy": "2.0", "scikit-learn": "1.9"}
STEPS = {"snapshot", "train", "convert", "run"}


def project(tmp_path, text=TOML):
    return parse_project(text.encode(), tmp_path / FILE_NAME)


def keys(project, sources=SOURCES, *, code="c1", libraries=LIBRARIES, version="1.0.0", reader="1"):
    params = project.train.params
    rows = key_of("snapshot", snapshot_inputs(project, sources, reader))
    estimator = key_of(
        "train",
        train_inputs(project, data=rows, code=code, params=params, libraries=libraries),
    )
    bundle = convert_inputs(
        project,
        version=version,
        data=rows,
        estimator=estimator,
        schema="",
        libraries=libraries,
    )
    return {
        "snapshot": rows,
        "train": estimator,
        "convert": key_of("convert", bundle),
        "run": run_id(project, sources, code=code, schema="", katib="", libraries=libraries),
    }


def changed(one, other):
    return {name for name in one if one[name] != other[name]}


def test_nothing_changes_with_the_folder(tmp_path):
    assert keys(project(tmp_path)) == keys(project(tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ('label = "y"', 'label = "z"', STEPS),
        ('slices = ["site"]', "slices = []", STEPS),
        ('label = "y"', 'label = "y"\nkey = "k"', STEPS),
        ('label = "y"', 'label = "y"\nsplit = {train=0.8, validation=0.1, test=0.1}', STEPS),
        ('"classifier"', '"regressor"', STEPS),
        ("seed = 1", "seed = 2", {"train", "convert", "run"}),
        ("C = 1.0", "C = 1.5", {"train", "convert", "run"}),
        ("p99_ms = 5", "p99_ms = 6", {"convert", "run"}),
        ('name = "m"', 'name = "n"', {"convert", "run"}),
        ('timeout = "1m"', 'timeout = "2m"', set()),
        ('version = "auto"', "push = true", set()),
        ('soak = "1m"', 'soak = "2m"', set()),
        ('soak = "1m"', 'probation = "2m"', set()),
        ('C = 1.0, penalty = "l2"', 'penalty = "l2", C = 1.0', set()),
    ],
)
def test_a_setting_changes_what_depends_on_it(tmp_path, before, after, expected):
    assert before in TOML
    other = project(tmp_path, TOML.replace(before, after))
    assert changed(keys(project(tmp_path)), keys(other)) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"code": "c2"}, {"train", "convert", "run"}),
        ({"libraries": {**LIBRARIES, "numpy": "2.1"}}, {"train", "convert", "run"}),
        ({"version": "1.1.0"}, {"convert"}),
        ({"reader": "2"}, {"snapshot", "train", "convert"}),
        ({"sources": SOURCES[::-1]}, STEPS),
        ({"sources": (SOURCES[0], Source("b.csv", "cc" * 32))}, STEPS),
        ({"sources": (Source("moved.csv", "aa" * 32), SOURCES[1])}, set()),
    ],
)
def test_an_input_changes_what_depends_on_it(tmp_path, change, expected):
    mine = project(tmp_path)
    assert changed(keys(mine), keys(mine, **change)) == expected


def test_steps_with_the_same_inputs_have_keys_of_their_own():
    assert key_of("train", {"a": 1}) != key_of("convert", {"a": 1})
