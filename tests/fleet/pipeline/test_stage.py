"""A run in pieces, each in a copy of the folder that the one before has left."""

import shutil
from importlib import util

import pytest

from fleet.pipeline.stage import STAGES, run_stage
from fleet.pipeline.steps import ORDER
from tests.fleet.pipeline.projects import TOML, make_folder
from wire.errors import BundleError, ConfigError, StorageError

LIMITS = "\n[evaluate]\nthresholds = { accuracy = { min = 0.7 } }\n"


@pytest.mark.slow
def test_a_run_in_pieces_makes_what_a_run_in_one_does_and_each_step_once(fleet, records, tmp_path):
    folder = make_folder(tmp_path / "p", toml=TOML + LIMITS)
    plain = shutil.copytree(folder, tmp_path / "plain")
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("secret")
    fleet("pipeline", "run", plain, "--version", "2.0.0")
    (expected,) = records(plain)

    given, done = folder, set()
    for stage, last in STAGES.items():
        taken = tmp_path / stage
        record = run_stage(stage, str(given), str(taken), "2.0.0")
        states = {step.name: step.state for step in record.steps}
        assert states == {name: "cached" if name in done else "ran" for name in states}
        assert list(states)[-1] == last
        assert not (taken / ".git").exists()
        done, given = done | states.keys(), taken
    assert done == set(ORDER) - {"tune", "release", "rollout"}
    assert not (folder / "runs").exists()
    assert record.id == expected["id"]
    assert record.bundle.manifest == expected["bundle"]["manifest"]
    assert record.verdict.outcome == expected["verdict"]["outcome"] == "bless"
    bundle = f"runs/{record.id}/model.bundle"
    assert (taken / bundle).read_bytes() == (plain / bundle).read_bytes()


def test_a_stage_that_fails_says_so_after_what_its_steps_have_said(tmp_path, capfd):
    folder = make_folder(tmp_path / "p", train="raise RuntimeError('no such luck')")
    with pytest.raises(BundleError) as caught:
        run_stage("train", str(folder), str(tmp_path / "taken"))
    assert caught.value.code == "stage_failed"
    assert "no such luck" in capfd.readouterr().err


def test_a_folder_that_is_no_project_or_cannot_be_copied_is_told_first(folder, tmp_path):
    with pytest.raises(ConfigError) as caught:
        run_stage("train", str(tmp_path / "nowhere"), str(tmp_path / "taken"))
    assert caught.value.code == "project_missing"
    assert not (tmp_path / "taken").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as refused:
        run_stage("train", str(folder), str(tmp_path / "file/taken"))
    assert refused.value.code == "folder_unwritable"


@pytest.mark.skipif(util.find_spec("kfp") is not None, reason="kfp is installed here")
def test_without_the_sdk_the_command_says_what_to_install(fleet, folder, tmp_path):
    told = fleet("pipeline", "compile", folder, "--output", tmp_path / "p.yaml", check=1)
    assert "pip install 'modelfleet[fleet,pipeline,kubeflow]'" in told.stderr
    assert not (tmp_path / "p.yaml").exists()
