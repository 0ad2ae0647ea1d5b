"""A pipeline beside a real fleet: what is blessed becomes a signed release, once, and goes to devices."""

import json

import pytest

from tests.fleet.pipeline.projects import TOML, make_folder
from wire.bundle import read_bundle

pytestmark = [pytest.mark.broker, pytest.mark.slow]

LIMITS = """
[evaluate]
thresholds = { accuracy = { min = 0.7 } }
change = { accuracy = { min = -0.3 } }

[release]
alias = "candidate"

[rollout]
phases = "100%"
soak = "1s"
probation = "90m"
"""


@pytest.mark.timeout(600)
def test_what_is_blessed_is_released_once_and_compared_with_the_one_before(make_bed, tmp_path):
    bed = make_bed("mosquitto", is_split=False)
    folder = make_folder(tmp_path / "p", toml=TOML + LIMITS)

    # What goes to stderr comes first, a line a step; then the record.
    def record_of(printed):
        return json.loads(printed[printed.index("\n{\n") :])

    first = record_of(bed.fleet("pipeline", "run", str(folder), "--json", "--release"))
    assert first["verdict"]["outcome"] == "bless"
    assert first["verdict"]["champion"] is None
    assert first["release"]["version"] == "1.0.0"
    (release,) = bed.get("/v1/models/line/releases")
    assert release["manifest"] == first["release"]["manifest"] == first["bundle"]["manifest"]
    assert release["number"] == 1
    files = read_bundle(folder / "runs" / first["id"] / "model.bundle").files
    assert b"line 1.0.0" in files["model_card.md"]

    kept = bed.get("/v1/releases/line/1.0.0/run")["run"]
    assert (kept["run"], kept["verdict"]["outcome"]) == (first["id"], "bless")
    assert kept["data"]["sha256"] == first["data"]["sha256"]
    assert kept["metrics"] == first["metrics"]
    named = bed.get("/v1/aliases")
    assert [(row["alias"], row["version"]) for row in named] == [("candidate", "1.0.0")]

    again = record_of(bed.fleet("pipeline", "run", str(folder), "--json", "--release"))
    assert again["bundle"] == first["bundle"]
    assert len(bed.get("/v1/models/line/releases")) == 1

    bed.add("cam-01")
    words = ("--param", "C=0.05", "--release", "--rollout")
    second = record_of(bed.fleet("pipeline", "run", str(folder), "--json", *words))
    assert second["release"]["version"] == "1.1.0"
    assert second["verdict"]["champion"] == first["bundle"]["model"]
    assert bed.get("/v1/aliases")[0]["version"] == "1.1.0"
    lineage = bed.fleet("lineage", "line@candidate")
    assert "line:1.1.0" in lineage
    assert second["data"]["sha256"][:12] in lineage
    (rollout,) = bed.get("/v1/rollouts")
    assert rollout["id"] == second["release"]["rollout"]
    assert rollout["version"] == "1.1.0"
    bed.until(
        "the device is given its trial",
        lambda: (
            [
                (model["probation"]["min_s"], model["probation"]["max_s"])
                for one in bed.observer.of("desired")
                for model in one.body["models"]
            ][-1:]
            == [(90 * 60, 90 * 60)]
        ),
    )

    strict = (folder / "pipeline.toml").read_text().replace("min = 0.7", "min = 0.999")
    (folder / "pipeline.toml").write_text(strict)
    with pytest.raises(AssertionError, match="the model is not released"):
        bed.fleet("pipeline", "run", str(folder), "--release", "--param", "C=0.06")
    assert len(bed.get("/v1/models/line/releases")) == 2
    listed = bed.fleet("pipeline", "list", "-C", str(folder))
    assert "failed" in listed
