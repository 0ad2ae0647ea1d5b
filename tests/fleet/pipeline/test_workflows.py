"""What `fleet pipeline init --ci` writes: whole, pinned, without a secret where others' code runs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.wheel import WheelBuilder

from fleet.cli.verdict import as_markdown
from fleet.pipeline.record import find_record
from fleet.pipeline.workflows import SERVICES, plan_workflows, write_files
from fleet.version import VERSION
from tests.fleet.pipeline.projects import TOML, make_folder
from tests.fleet.pipeline.runner import INSTALL, read_workflow
from tests.test_documents import commands, fault_of_fleet
from wire.errors import ConfigError

ROOT = Path(__file__).parents[3]
WORKFLOWS = ("validate", "release")
TOP_KEYS = {"name", "on", "permissions", "concurrency", "defaults", "jobs"}
JOB_KEYS = {"needs", "runs-on", "timeout-minutes", "environment", "env", "steps"}
STEP_KEYS = {"id", "name", "if", "uses", "with", "env", "run", "working-directory"}
CONTEXTS = re.compile(
    r"github\.ref|vars\.FLEET_CONTROLLER|secrets\.FLEET_[A-Z]+|runner\.temp|always\(\)"
    r"|!cancelled\(\) && steps\.(run|release)\.outcome != 'skipped'"
)
ACTION = re.compile(r"actions/(checkout|setup-python|(up|down)load-artifact)@[0-9a-f]{40}")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A project in a folder of a repository, with its workflows; their folder and texts."""
    top = tmp_path_factory.mktemp("repository")
    (top / ".git").mkdir()
    project = make_folder(top / "models/line")
    write_files(plan_workflows(project, "github"))
    return top


def workflow(top, name):
    return read_workflow(top / f".github/workflows/{name}.yml")


def steps(top, name):
    return [step for job in workflow(top, name)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_the_shape_that_github_asks_for(written, name):
    found = workflow(written, name)
    assert found.keys() == TOP_KEYS
    assert found["permissions"] == {"contents": "read"}
    assert found["concurrency"].keys() == {"group", "cancel-in-progress"}
    assert found["defaults"]["run"]["working-directory"] == "./models/line"
    for job in found["jobs"].values():
        assert job.keys() <= JOB_KEYS
        assert job["runs-on"] == "ubuntu-24.04"
        assert 0 < job["timeout-minutes"] <= 360
        assert job.get("needs", "train") in found["jobs"] or "needs" not in job
        ids = [step["id"] for step in job["steps"] if "id" in step]
        assert len(ids) == len(set(ids))
        for number, step in enumerate(job["steps"]):
            assert step.keys() <= STEP_KEYS
            assert ("uses" in step) != ("run" in step)
            before = {earlier.get("id") for earlier in job["steps"][:number]}
            assert set(re.findall(r"steps\.(\w+)", step.get("if", ""))) <= before


@pytest.mark.parametrize("name", WORKFLOWS)
def test_each_action_is_pinned_by_its_digest_with_its_version_beside(written, name):
    text = (written / f".github/workflows/{name}.yml").read_text()
    uses = re.findall(r"uses: (.*)", text)
    assert len(uses) >= 3
    for use in uses:
        action, version = use.split(" # ")
        assert ACTION.fullmatch(action)
        assert re.fullmatch(r"v\d+\.\d+\.\d+", version)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_expression_is_put_into_a_script_and_each_is_one_that_there_is(written, name):
    text = (written / f".github/workflows/{name}.yml").read_text()
    for expression in re.findall(r"\$\{\{(.*?)\}\}", text):
        assert CONTEXTS.fullmatch(expression.strip()), expression
    assert text.count("${{") == len(re.findall(r"\$\{\{.*?\}\}", text))
    for step in steps(written, name):
        assert "${{" not in step.get("run", "")


def test_secrets_are_in_the_job_alone_that_runs_no_code_of_the_project(written):
    validate = workflow(written, "validate")
    assert validate["on"] == {"pull_request": None}  # not pull_request_target, which has secrets
    assert "secrets." not in json.dumps(validate)
    jobs = workflow(written, "release")["jobs"]
    assert "secrets." not in json.dumps(jobs["train"])
    holders = [step["name"] for step in jobs["release"]["steps"] if "secrets." in json.dumps(step)]
    assert holders == ["Put the secrets into files"]
    assert jobs["release"]["environment"] == "fleet"
    runs = [step["run"] for step in jobs["release"]["steps"] if "run" in step]
    assert all("--kept" in run for run in runs if "pipeline run" in run)
    assert runs[-1] == 'rm -rf "$RUNNER_TEMP/fleet"'


@pytest.mark.parametrize("name", WORKFLOWS)
def test_each_script_is_bash_and_names_commands_that_there_are(written, name, tmp_path):
    linter = shutil.which("shellcheck")
    scripts = [step["run"] for step in steps(written, name) if "run" in step]
    assert len(scripts) >= 3
    for number, script in enumerate(scripts):
        path = tmp_path / f"{number}.sh"
        path.write_text(f"#!/bin/bash\n{script}\n")
        subprocess.run(["bash", "-n", path], check=True)
        if linter is not None:
            subprocess.run([linter, path], check=True)
        found = list(commands(f"```sh\n{script}\n```"))
        assert [fault_of_fleet(words) for words in found if words[0] == "fleet"] == [
            None for words in found if words[0] == "fleet"
        ]


def test_a_project_keeps_what_it_has_and_nothing_is_overwritten(fleet, tmp_path):
    project = make_folder(tmp_path / "p")
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    fleet("pipeline", "init", project, "--ci", "github")
    after = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert {str(path.relative_to(project)) for path in after.keys() - before.keys()} == set(
        SERVICES["github"]
    )
    assert {path: after[path] for path in before} == before
    assert workflow(project, "release")["defaults"]["run"]["working-directory"] == "."
    again = fleet("pipeline", "init", project, "--ci", "github", check=1)
    assert "is there already" in again.stderr
    for path in (project / ".github/workflows").iterdir():
        path.unlink()
    assert (
        "modelfleet.txt is there"
        in fleet("pipeline", "init", project, "--ci", "github", check=1).stderr
    )
    assert not list((project / ".github/workflows").iterdir())


def test_a_new_folder_gets_a_project_and_its_workflows(fleet, tmp_path):
    told = fleet("pipeline", "init", tmp_path / "new", "--ci", "github").stdout
    for name in ("pipeline.toml", *SERVICES["github"]):
        assert (tmp_path / "new" / name).is_file()
        assert name in told


@pytest.mark.parametrize(
    ("name", "service", "code"),
    [
        ("p", "jenkins", "ci_unknown"),
        ("a b", "github", "folder_name"),
        ("${{ github.token }}", "github", "folder_name"),
        ('x"\nrun: y', "github", "folder_name"),
        ("*", "github", "folder_name"),
    ],
)
def test_what_no_workflow_can_be_written_for_is_told_before_anything_is(
    tmp_path, name, service, code
):
    (tmp_path / ".git").mkdir()
    with pytest.raises(ConfigError) as caught:
        plan_workflows(tmp_path / name, service)
    assert caught.value.code == code
    assert [path.name for path in tmp_path.iterdir()] == [".git"]


@pytest.mark.slow
def test_the_install_step_takes_the_wheel_and_the_versions_of_here(written):
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(written / ".github"))
    with ZipFile(wheel) as archive:
        texts = {name for name in archive.namelist() if name.startswith("fleet/pipeline/ci/")}
    assert texts == {f"fleet/pipeline/ci/github/{text}" for text in SERVICES["github"].values()}
    assert Path(wheel).name == f"modelfleet-{VERSION}-py3-none-any.whl"
    for name in WORKFLOWS:
        for step in steps(written, name):
            if step.get("name") == "Install":
                assert (step["run"], step["working-directory"]) == (INSTALL, ".")
    asked = [*INSTALL.split()[1:], "--dry-run", "--no-index", "--quiet"]
    done = subprocess.run(
        [sys.executable, *asked], cwd=written, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# -- the verdict as an exit code


@pytest.mark.slow
def test_a_verdict_is_an_exit_code_and_a_section(fleet, tmp_path):
    limits = "\n[evaluate]\nthresholds = { accuracy = { min = 0.7 } }\n"
    folder = make_folder(tmp_path / "p", toml=TOML + limits)
    assert "no run yet" in fleet("pipeline", "verdict", cwd=folder, check=1).stderr
    fleet("pipeline", "run", folder, "--until", "train")
    assert "nothing was evaluated" in fleet("pipeline", "verdict", cwd=folder, check=1).stdout
    fleet("pipeline", "run", folder, "--until", "evaluate", "--version", "2.0.0")
    told = fleet("pipeline", "verdict", "-C", folder, "--json").stdout
    assert json.loads(told)["outcome"] == "bless"
    refused = fleet("pipeline", "run", folder, "--version", "../x", check=1)
    assert "is no version" in refused.stderr

    # What is kept is enough, and another version is another bundle.
    fleet("pipeline", "run", folder, "--until", "evaluate", "--version", "2.0.0", "--kept")
    other = fleet("pipeline", "run", folder, "--version", "2.1.0", "--kept", check=1)
    assert "convert of this run is not kept" in other.stderr
    failed = fleet("pipeline", "verdict", "--markdown", cwd=folder, check=1).stdout
    assert failed.startswith("## line: failed at convert\n")
    fleet("pipeline", "run", folder, "--kept", "--force", check=2)

    for least, code, words in ((0.999, 3, "refused"), (0.9, 4, "open")):
        text = (TOML + limits).replace("0.7", str(least))
        (folder / "pipeline.toml").write_text(text)
        fleet("pipeline", "run", folder, "--until", "evaluate", "--version", "2.0.0")
        record = find_record(folder / "runs", None)
        low = record.verdict.outcome, record.metrics["accuracy"]
        assert fleet("pipeline", "verdict", cwd=folder, check=code).stdout.startswith(
            f"line, run {record.id}: {words}"
        ), low


def test_words_of_others_are_no_markup(fleet, tmp_path):
    folder = make_folder(tmp_path / "p", train="raise RuntimeError('<img src=x> [a](b) `c`\\n# d')")
    fleet("pipeline", "run", folder, check=1)
    text = "\n".join(as_markdown(find_record(folder / "runs", None)))
    assert "\n# d" not in text
    assert "<img" not in text.replace("\\<", "")
    assert "[a]" not in text


def test_the_commands_of_the_workflows_are_on_the_page(written):
    page = (ROOT / "docs/ci.md").read_text()
    for command in ("pipeline run --until evaluate --no-release", "pipeline verdict"):
        assert any(command in step.get("run", "") for step in steps(written, "validate"))
        assert command in page
