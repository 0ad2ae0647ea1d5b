"""One pipeline.toml, three ways to run it: by hand, as tasks under kfp.local, as GitHub's workflow."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format

from fleet.pipeline.record import all_records
from fleet.pipeline.stage import STAGES
from fleet.pipeline.workflows import plan_workflows, write_files
from tests.fleet.pipeline.projects import TOML, make_folder
from tests.fleet.pipeline.runner import Runner
from tests.interop.needed import need
from wire.bundle import read_bundle

local = need("kfp.local")
components = need("kfp.components")
PipelineSpec = need("kfp.pipeline_spec.pipeline_spec_pb2").PipelineSpec

FLEET = Path(sys.prefix) / "bin/fleet"
LIMITS = "\n[evaluate]\nthresholds = { accuracy = { min = 0.7 } }\n"
VERSION = "1.2.0"
IMAGE = "registry.example/modelfleet-python:7"


def fleet(*words, check=0):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLEET_")}
    done = subprocess.run(
        [FLEET, *map(str, words)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == check, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project that nobody has run."""
    return make_folder(tmp_path_factory.mktemp("project") / "line", toml=TOML + LIMITS)


@pytest.fixture(scope="module")
def compiled(project, tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    fleet("pipeline", "compile", project, "--output", path, "--image", IMAGE)
    return path


def by_hand(project, scratch):
    folder = shutil.copytree(project, scratch / "by-hand")
    record = json.loads(fleet("pipeline", "run", folder, "--version", VERSION, "--json").stdout)
    return record["id"], record["bundle"]["manifest"], record["verdict"]["outcome"]


def by_kubeflow(project, compiled, scratch):
    local.init(
        runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(scratch / "kubeflow")
    )
    task = components.load_component_from_file(str(compiled))(project=str(project), version=VERSION)
    found = task.outputs
    assert found["rows"] == "valid"
    opened = read_bundle(Path(found["packed"].path))
    assert opened.manifest_digest == found["manifest"] == found["packed"].metadata["manifest"]
    assert opened.manifest.version == VERSION
    return found["run"], found["manifest"], found["verdict"]


def by_workflow(project, scratch):
    repository = shutil.copytree(project, scratch / "repository")
    git = ("git", "-C", repository, "-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run([*git, "init", "-q"], check=True)
    write_files(plan_workflows(repository, "github"))
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "a"], check=True)
    subprocess.run([*git, "tag", f"v{VERSION}"], check=True)
    runner = Runner(scratch / "ci", repository, f"v{VERSION}")
    assert runner.run("release", "train"), runner.printed
    (record,) = all_records(runner.artifact("runs"))
    return record.id, record.bundle.manifest, record.verdict.outcome


@pytest.mark.slow
def test_one_file_gives_one_bundle_by_hand_under_kubeflow_and_in_the_workflow(
    project, compiled, tmp_path
):
    plain = by_hand(project, tmp_path)
    assert plain[2] == "bless"
    assert by_kubeflow(project, compiled, tmp_path) == plain
    assert by_workflow(project, tmp_path) == plain
    assert not (project / "runs").exists()


def test_the_file_is_a_pipeline_spec_that_installs_nothing_and_caches_nothing(compiled):
    content = yaml.safe_load(compiled.read_text())
    spec = json_format.ParseDict(content, PipelineSpec())
    assert spec.schema_version == "2.1.0"
    assert spec.pipeline_info.name == "line"
    assert spec.root.input_definitions.parameters.keys() == {"project", "version"}
    tasks = dict(spec.root.dag.tasks)
    before = "importer"
    for stage in STAGES:  # each is given what the one before has made
        given = tasks[stage].inputs.artifacts["project"].task_output_artifact
        assert (given.producer_task, list(tasks[stage].dependent_tasks)) == (before, [before])
        assert not tasks[stage].caching_options.enable_cache
        before = stage
    assert tasks.keys() == {"importer", *STAGES}
    executors = content["deploymentSpec"]["executors"].values()
    containers = [found["container"] for found in executors if "container" in found]
    assert len(containers) == len(STAGES)
    assert {container["image"] for container in containers} == {IMAGE}
    assert "pip install" not in json.dumps(containers)


def test_the_same_project_is_the_same_file_and_a_name_is_put_in_kubernetes_letters(
    project, compiled, tmp_path
):
    again = tmp_path / "again.yaml"
    fleet("pipeline", "compile", project, "--output", again, "--image", IMAGE)
    assert again.read_bytes() == compiled.read_bytes()
    other = make_folder(tmp_path / "other", toml=TOML.replace('"line"', '"Line_2_"'))
    fleet("pipeline", "compile", other, "--output", again)
    assert yaml.safe_load(again.read_text())["pipelineInfo"]["name"] == "line-2"
