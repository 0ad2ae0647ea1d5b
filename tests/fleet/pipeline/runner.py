"""What GitHub's runner does with a workflow, as far as ours ask for it: steps in bash, files between jobs.

By https://docs.github.com/actions/reference/workflows-and-actions: the script of a step in a file
that its shell is given, `GITHUB_ENV` read after each step, artifacts without modes and hidden files.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

BIN = Path(sys.prefix) / "bin"
INSTALL = "python -m pip install --requirement .github/modelfleet.txt"


def read_workflow(path):
    """Return a workflow; YAML 1.1, as PyYAML reads it, takes the key `on` for true."""
    found = yaml.safe_load(path.read_text())
    found["on"] = found.pop(True)
    return found


@dataclass
class Runner:
    """Runs jobs of a repository's workflows, each in a clone and a scratch folder of its own.

    Args:
        scratch: For everything.
        repository: What is checked out.
        ref: Name of the tag or branch.
        variables: The repository's.
        secrets: The environment's.
    """

    scratch: Path
    repository: Path
    ref: str
    variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    printed: str = ""
    outcomes: dict[str, str] = field(default_factory=dict)
    """Of the last job, by the name of a step."""
    after: dict[str, object] = field(default_factory=dict)
    """Called after the step of this name with the job's temporary folder."""

    def run(self, workflow, job):
        """Return whether a job was good."""
        found = read_workflow(self.repository / f".github/workflows/{workflow}.yml")
        place = self.scratch / job
        place.mkdir(parents=True)
        self._place, self._defaults = place, found["defaults"]["run"]
        self._checkout, self._temporary = place / "checkout", place / "temp"
        self._temporary.mkdir()
        for name in ("env", "summary.md"):
            (place / name).touch()
        self._job_env = found["jobs"][job].get("env", {})
        self.outcomes = {}
        by_id, is_good = {}, True
        for step in found["jobs"][job]["steps"]:
            name = step.get("name", step.get("uses"))
            if self._is_due(step.get("if"), by_id, is_good=is_good):
                outcome = "success" if self._do(step) else "failure"
                if name in self.after:
                    self.after[name](self._temporary)
            else:
                outcome = "skipped"
            self.outcomes[name] = by_id[step.get("id")] = outcome
            is_good = is_good and outcome != "failure"
        return is_good

    def summary(self, job):
        return (self.scratch / job / "summary.md").read_text()

    def artifact(self, name):
        return self.scratch / "artifacts" / name

    def _is_due(self, condition, by_id, *, is_good):
        if condition is None:
            return is_good
        inner = re.fullmatch(r"\$\{\{ (.*) \}\}", condition)[1]
        if inner == "always()":
            return True
        found = re.fullmatch(r"!cancelled\(\) && steps\.(\w+)\.outcome != 'skipped'", inner)
        return by_id[found[1]] != "skipped"

    def _do(self, step):
        if "run" in step:
            return self._execute(step)
        action = step["uses"].partition("@")[0]
        getattr(self, action.partition("/")[2].replace("-", "_"))(**{
            key.replace("-", "_"): self._filled(value) if isinstance(value, str) else value
            for key, value in step.get("with", {}).items()
        })  # fmt: skip
        return True

    def _execute(self, step):
        if step["run"] == INSTALL:
            return (self._checkout / ".github/modelfleet.txt").is_file()  # all of it is here
        script = self._place / "script.sh"
        script.write_text(step["run"])
        folder = step.get("working-directory", self._defaults["working-directory"])
        shell = shlex.split(self._defaults["shell"].replace("{0}", str(script)))
        done = subprocess.run(
            shell,
            cwd=self._checkout / folder,
            env=self._environment(step.get("env", {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
            check=False,
            text=True,
        )
        self.printed += done.stdout
        return done.returncode == 0

    def _environment(self, own):
        later = (self._place / "env").read_text().splitlines()
        given = {**self._job_env, **dict(line.split("=", 1) for line in later), **own}
        return {
            **{key: os.environ[key] for key in ("HOME", "LANG", "TMPDIR") if key in os.environ},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_WORKSPACE": str(self._checkout),
            "GITHUB_REF_NAME": self.ref,
            "GITHUB_ENV": str(self._place / "env"),
            "GITHUB_STEP_SUMMARY": str(self._place / "summary.md"),
            "RUNNER_TEMP": str(self._temporary),
            **{key: self._filled(value) for key, value in given.items()},
        }

    def _filled(self, text):
        """Return text with its expressions put in; a secret or variable that is not there is empty."""

        def value(found):
            kind, _, name = found[1].partition(".")
            named = {"secrets": self.secrets, "vars": self.variables}
            return str(self._temporary) if found[1] == "runner.temp" else named[kind].get(name, "")

        return re.sub(r"\$\{\{ ([\w.]+) \}\}", value, text)

    # -- the actions

    def checkout(self, **_):
        subprocess.run(
            ["git", "clone", "-q", "--branch", self.ref, self.repository, self._checkout],
            check=True,
            capture_output=True,
        )

    def setup_python(self, python_version):
        assert python_version == f"{sys.version_info.major}.{sys.version_info.minor}"

    def upload_artifact(self, name, path, if_no_files_found="warn", retention_days=90):
        given = self._checkout / path  # one that is absolute stays so
        base = given if given.is_dir() else Path(str(given).partition("*")[0])
        listed = [p for p in base.rglob("*") if p.is_file()]
        if not given.is_dir():
            listed = [p for p in listed if p.match(str(given))]
        for file in listed:
            inside = file.relative_to(base)
            if not any(part.startswith(".") for part in inside.parts):
                _copy(file, self.artifact(name) / inside)

    def download_artifact(self, name, path):
        for file in self.artifact(name).rglob("*"):
            if file.is_file():
                _copy(file, self._checkout / path / file.relative_to(self.artifact(name)))


def _copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
