"""The workflows that `fleet pipeline init --ci github` writes, step by step as GitHub runs them."""

import base64
import json
import shutil
import subprocess

import pytest

from tests.fleet.pipeline.projects import TOML, make_folder
from tests.fleet.pipeline.runner import BIN, Runner
from tests.spine.processes import ENVIRONMENT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LIMITS = """
[evaluate]
thresholds = { accuracy = { min = 0.7 } }

[rollout]
match = "site=lab"
phases = "100%"
soak = "1s"
"""


def git(folder, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def commit(repository, tag):
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", tag)
    git(repository, "tag", tag)


@pytest.fixture
def repository(tmp_path):
    """A repository with a project in a folder of it, and its workflows."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / ".gitignore").write_text("runs/\n__pycache__/\n")
    make_folder(root / "line", toml=TOML + LIMITS)
    init = [BIN / "fleet", "pipeline", "init", root / "line", "--ci", "github"]
    subprocess.run(init, check=True, capture_output=True, env=ENVIRONMENT)
    return root


def test_a_pull_request_is_judged_and_its_verdict_is_the_exit_code(repository, tmp_path):
    commit(repository, "good")
    good = Runner(tmp_path / "good", repository, "good")
    assert good.run("validate", "validate"), good.printed
    said = good.summary("validate")
    assert said.startswith("## line: blessed\n")
    assert "| accuracy | 0." in said
    (report,) = good.artifact("report").rglob("report.html")
    assert "accuracy" in report.read_text()

    toml = repository / "line/pipeline.toml"
    toml.write_text(toml.read_text().replace("min = 0.7", "min = 0.999"))
    commit(repository, "strict")
    strict = Runner(tmp_path / "strict", repository, "strict")
    assert not strict.run("validate", "validate")
    assert strict.outcomes["Train and judge"] == "success"
    assert strict.outcomes["Verdict"] == "failure"
    assert strict.summary("validate").startswith("## line: refused\n")
    assert list(strict.artifact("report").rglob("report.html"))

    train = repository / "line/train.py"
    train.write_text(train.read_text() + "\nraise SystemExit('<b>no</b>')\n")
    commit(repository, "broken")
    broken = Runner(tmp_path / "broken", repository, "broken")
    assert not broken.run("validate", "validate")
    assert broken.outcomes["Train and judge"] == "failure"
    said = broken.summary("validate")
    assert said.startswith("## line: failed at train\n")
    assert "<b>" not in said


def make_key(bed, folder, name):
    """Make a key with a passphrase of its own; return what signs with it, and its public file."""
    passphrase = folder.with_suffix(".passphrase")
    passphrase.write_text(f"of {name}\n")
    signing = ("--keys", str(folder), "--passphrase-file", str(passphrase))
    bed.fleet("keys", "new", name, *signing)
    (public,) = folder.glob("*.pub")
    return signing, str(public)


def packed(folder):
    """Return a folder of keys as docs/ci.md packs it."""
    words = ["tar", "-C", folder, "-cz", "."]
    return base64.b64encode(subprocess.run(words, check=True, capture_output=True).stdout).decode()


def give_token(bed, path):
    words = ("--role", "releaser", "--scope", "site=lab", "--output", str(path))
    bed.fleet("token", "create", "ci", *words)
    return path.read_text().strip()


def again(runner, scratch):
    """Return a runner for the second job, once more after the first one of another."""
    shutil.copytree(runner.artifact("runs"), scratch / "artifacts/runs")
    return Runner(scratch, runner.repository, runner.ref, runner.variables, runner.secrets)


@pytest.mark.broker
def test_a_tag_is_released_as_its_version_by_a_scoped_token(make_bed, repository, tmp_path):
    bed = make_bed("mosquitto", is_split=False)
    bed.fleet("device", "add", "cam-01", "--tag", "site=lab", "--output", "cam-01.toml")
    ci, ci_public = make_key(bed, tmp_path / "ci", "ci")
    secrets = {
        "FLEET_TOKEN": give_token(bed, tmp_path / "ci.token"),
        "FLEET_ROOT": (bed.fleet_dir / "root.json").read_text(),
        "FLEET_CA": (bed.fleet_dir / "store/pki/ca.pem").read_text(),
        "FLEET_KEYS": packed(tmp_path / "ci"),
        "FLEET_PASSPHRASE": "of ci",
    }
    variables = {"FLEET_CONTROLLER": f"http://{bed.api_address}"}
    modes = {}

    def note_modes(temporary):
        files = [path for path in (temporary / "fleet").rglob("*") if path.is_file()]
        modes.update({path.name: path.stat().st_mode & 0o777 for path in files})

    commit(repository, "v1.4.0")
    signing = Runner(tmp_path / "signing", repository, "v1.4.0", variables, secrets)
    signing.after["Put the secrets into files"] = note_modes
    assert signing.run("release", "train"), signing.printed
    assert bed.get("/v1/models") == []

    # No key is made on a machine that is gone afterwards.
    early = again(signing, tmp_path / "early")
    assert not early.run("release", "release")
    assert "nobody signs for line yet" in early.printed
    assert bed.get("/v1/models") == []

    bed.fleet("keys", "team", "line", ci_public, "--yes", "--output", str(tmp_path / "team.sign"))
    bed.fleet("sign", str(tmp_path / "team.sign"), *ci, "--yes")
    assert signing.run("release", "release"), signing.printed
    (release,) = bed.get("/v1/models/line/releases")
    assert (release["version"], release["number"]) == ("1.4.0", 1)
    (rollout,) = bed.get("/v1/rollouts")
    assert (rollout["version"], rollout["match"]) == ("1.4.0", {"site": "lab"})
    assert f"rollout {rollout['id']}" in signing.summary("release").replace("\\", "")
    assert {"token", "ca.pem", "root.json", "passphrase"} < modes.keys()
    assert {mode for name, mode in modes.items() if not name.endswith(".pub")} == {0o600}
    assert not (tmp_path / "signing/release/temp/fleet").exists()
    assert not signing.artifact("to-sign").exists()
    for secret in ("FLEET_TOKEN", "FLEET_PASSPHRASE"):
        assert secrets[secret] not in signing.printed
    # The second job trained nothing, and the first released nothing.
    (path,) = (tmp_path / "signing/release/checkout/line/runs").glob("*/run.json")
    states = {step["name"]: step["state"] for step in json.loads(path.read_text())["steps"]}
    assert {name for name, state in states.items() if state == "ran"} == {"release", "rollout"}
    assert states["train"] == states["evaluate"] == "cached"
    audited = json.loads(bed.fleet("audit", "log", "--json"))
    assert "POST /v1/bundles" in {row["what"] for row in audited if row["who"] == "ci"}

    # The same tag once more: the same release, and no second rollout.
    twice = again(signing, tmp_path / "twice")
    assert not twice.run("release", "release")
    assert "is already rolling out line:1.4.0" in twice.printed
    assert not (tmp_path / "twice/release/temp/fleet").exists()
    assert len(bed.get("/v1/models/line/releases")) == len(bed.get("/v1/rollouts")) == 1

    # Without a key the run ends with a file for a person.
    toml = repository / "line/pipeline.toml"
    toml.write_text(toml.read_text().replace("C = 1.0", "C = 0.5"))
    commit(repository, "v1.5.0")
    keyless = {name: secrets[name] for name in ("FLEET_TOKEN", "FLEET_ROOT")}
    asking = Runner(tmp_path / "asking", repository, "v1.5.0", variables, keyless)
    assert asking.run("release", "train"), asking.printed
    assert asking.run("release", "release"), asking.printed
    newest = bed.get("/v1/models/line/releases")[0]
    assert (newest["version"], newest["number"]) == ("1.5.0", None)
    assert "waits for signatures" in asking.summary("release")
    assert len(bed.get("/v1/rollouts")) == 1
    file = asking.artifact("to-sign") / "v1.5.0.sign"
    bed.fleet("sign", str(file), *ci, "--yes")
    assert bed.get("/v1/models/line/releases")[0]["number"] == 2

    # With one of two keys the same, and both have signed.
    you, public = make_key(bed, tmp_path / "you", "you")
    change = ("--threshold", "2", "--yes", "--output", str(tmp_path / "two.sign"))
    bed.fleet("keys", "add", "model-line", public, *change)
    bed.fleet("sign", str(tmp_path / "two.sign"), *ci, "--yes")
    bed.fleet("sign", str(tmp_path / "two.sign"), *you, "--yes")
    toml.write_text(toml.read_text().replace("C = 0.5", "C = 0.4"))
    commit(repository, "v1.6.0")
    both = Runner(tmp_path / "both", repository, "v1.6.0", variables, secrets)
    assert both.run("release", "train"), both.printed
    assert both.run("release", "release"), both.printed
    assert bed.get("/v1/models/line/releases")[0]["number"] is None
    assert "model-line lacks 1 of" in both.printed
    bed.fleet("sign", str(both.artifact("to-sign") / "v1.6.0.sign"), *you, "--yes")
    assert bed.get("/v1/models/line/releases")[0]["number"] == 3
    assert len(bed.get("/v1/rollouts")) == 1
