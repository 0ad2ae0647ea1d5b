"""A model out of a real MLflow, and what the fleet has released back into it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import typer
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from fleet.cli.main import app
from fleet.cli.mlflow_model import source_of
from tests.interop.needed import need
from tests.spine.bed import Bed
from tests.spine.processes import free_port, until
from wire.bundle import read_bundle
from wire.errors import ConfigError, ModelfleetError

mlflow = need("mlflow")
need("mlflow.onnx")

SERVER = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes that nobody asks for anything
}
BIN = Path(sys.prefix) / "bin"
MODEL_NAME = "digits"
RUN = {
    "pipeline": MODEL_NAME,
    "run": "8c1f",
    "data": {"sha256": "d" * 64, "row_count": 9},
    "metrics": {"accuracy": 0.97, "f1 of @site": 0.5},
    "verdict": {"outcome": "bless", "reasons": ["good"]},
}


def commanded(*words, folder, uri=None, check=0):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("FLEET_", "MLFLOW_"))}
    environment |= {"MLFLOW_TRACKING_URI": uri} if uri is not None else {}
    done = subprocess.run(
        [BIN / "fleet", *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == check, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of MLflow's own server: its database is SQLite, its artifacts are in a folder."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [
        BIN / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True,
            env=os.environ | SERVER,
        )  # fmt: skip
    try:
        until("MLflow answers", lambda: _is_well(url), timeout_s=120)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def _is_well(url):
    try:
        return httpx.get(f"{url}/health", trust_env=False).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def there(server):
    """MLflow's client, and in its registry a model: 1 ONNX, 2 skops, 3 a pickle, 4 something else."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    mlflow.set_tracking_uri(server)
    mlflow.set_experiment("digits")
    random = np.random.default_rng(3)
    x = random.normal(size=(300, 4)).astype(np.float32)
    estimator = LogisticRegression().fit(x, (x[:, 0] > 0).astype(int))
    as_onnx = to_onnx(estimator, x[:1], options={"zipmap": False})
    more = {"name": "model", "registered_model_name": MODEL_NAME, "pip_requirements": []}
    with mlflow.start_run():
        mlflow.onnx.log_model(as_onnx, **more)
    for kind in ("skops", "cloudpickle"):
        with mlflow.start_run():
            mlflow.sklearn.log_model(estimator, serialization_format=kind, **more)
    client = mlflow.MlflowClient()
    client.create_model_version(MODEL_NAME, "s3://nowhere/at/all")
    client.set_registered_model_alias(MODEL_NAME, "challenger", "1")
    return client


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.npz"
    np.savez(path, X=np.random.default_rng(4).normal(size=(200, 4)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    bed = Bed(tmp_path_factory.mktemp("bed") / "bed", "nats", None, is_split=False)
    bed.start()
    yield bed
    bed.put_away()


def put(bed, path, body):
    token = (bed.fleet_dir / "admin.token").read_text().strip()
    answer = httpx.put(
        f"http://{bed.api_address}/v1/{path}",
        json=body,
        headers={"authorization": f"Bearer {token}"},
        trust_env=False,
    )
    assert answer.is_success, answer.text


def facts(client):
    """All that the registry says of the model, with the times of its last changes."""
    versions = client.search_model_versions(f"name='{MODEL_NAME}'")
    model = client.get_registered_model(MODEL_NAME)
    return (
        {int(v.version): (v.source, dict(v.tags), v.last_updated_timestamp) for v in versions},
        (model.aliases, model.tags, model.last_updated_timestamp),
    )


def test_a_model_goes_from_mlflow_into_the_fleet_and_its_release_and_aliases_go_back(
    server, there, rows, bed, monkeypatch
):
    folder = bed.fleet_dir
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)

    def fleet(*words):
        return commanded(*words, folder=folder, uri=server)

    def mirror(*words):
        """Run the command in this process: MLflow's client takes seconds to import."""
        done = CliRunner().invoke(app, ["mirror", "mlflow", MODEL_NAME, *words])
        assert done.exit_code == 0, (done.exception, done.output)
        return done

    pushed = fleet("push", "models:/digits@challenger", "--data", rows, "--json")
    release = json.loads(pushed.stdout)["release"]
    opened = read_bundle(folder / "digits-1.0.0.bundle")
    assert (release["version"], release["manifest"]) == ("1.0.0", opened.manifest_digest)
    logged = there.get_model_version(MODEL_NAME, "1")
    said = opened.manifest.lineage.parameters
    assert {key: said[key] for key in said if key.startswith("mlflow.")} == {
        "mlflow.model": "digits", "mlflow.version": "1", "mlflow.run": logged.run_id,
    }  # fmt: skip
    again = fleet("push", "models:/digits/1", "--data", rows, "--json")
    assert not json.loads(again.stdout)["is_new"]

    # Another release of the same model, which never was in MLflow, with a run that is on record.
    path = mlflow.artifacts.download_artifacts("models:/digits/2/model.skops", dst_path=str(folder))
    fleet("convert", path, "--name", MODEL_NAME, "--version", "1.1.0", "--data", rows)
    fleet("push", "digits-1.1.0.bundle")
    put(bed, "releases/digits/1.1.0/run", RUN)
    put(bed, "models/digits/aliases/champion", {"version": "1.0.0"})
    put(bed, "models/digits/aliases/challenger", {"version": "1.1.0"})

    told = json.loads(mirror("--json").stdout)
    assert [(v["release"], v["number"], v["done"]) for v in told["versions"]] == [
        ("digits:1.0.0", 1, "tagged"),
        ("digits:1.1.0", 5, "registered"),
    ]
    assert (told["moved"], told["left"]) == ({"champion": 1}, ["challenger"])
    versions, (aliases, _, _) = facts(there)
    assert aliases == {"champion": "1", "challenger": "1"}
    assert versions[1][1]["modelfleet.manifest"] == opened.manifest_digest
    assert versions[1][1]["modelfleet.signed"] == "1"
    assert versions[5][0] == "modelfleet:/digits/1.1.0"
    tags = versions[5][1]
    assert tags["modelfleet.release"] == "digits:1.1.0"
    assert tags["modelfleet.verdict"] == "bless"
    assert tags["modelfleet.data_sha256"] == "d" * 64
    assert (tags["modelfleet.metric.accuracy"], tags["modelfleet.metric.f1 of _site"]) == (
        "0.97", "0.5",
    )  # fmt: skip
    assert versions[2][1] == versions[3][1] == versions[4][1] == {}

    # Again it changes nothing, not even a time.
    before = facts(there)
    told = json.loads(mirror("--json").stdout)
    assert {v["done"] for v in told["versions"]} == {"as it was"}
    assert facts(there) == before

    # What moves in the fleet moves there; what others have set only when that is asked for.
    put(bed, "models/digits/aliases/champion", {"version": "1.1.0"})
    assert "digits@challenger means another version" in mirror().stderr
    assert facts(there)[1][0] == {"champion": "5", "challenger": "1"}
    assert "models:/digits/5" in mirror("--take-aliases").stdout
    assert facts(there)[1][0] == {"champion": "5", "challenger": "5"}
    fleet("alias", "delete", "digits@challenger")
    mirror()
    assert facts(there)[1][0] == {"champion": "5"}

    # A database instead of a server, and a model that MLflow does not have yet.
    uri = f"sqlite:///{folder}/own.db"
    mirror("--tracking-uri", uri, "--as", "ours")
    own = mlflow.MlflowClient(tracking_uri=uri)
    found = own.get_model_version_by_alias("ours", "champion")
    assert (int(found.version), found.tags["modelfleet.release"]) == (2, "digits:1.1.0")


NOWHERE = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("given", "uri", "code"),
    [
        ("models:/digits/4", None, "mlflow_unreachable"),  # a version that lies nowhere
        ("models:/digits/9", None, "mlflow_refused"),
        ("models:/digits@nobody", None, "mlflow_refused"),
        ("models:/digits", None, "mlflow_uri"),
        ("models:/../x/1", None, "mlflow_uri"),
        ("models:/digits/1", NOWHERE, "mlflow_unreachable"),
    ],
)
@pytest.mark.usefixtures("there")
def test_what_cannot_be_had_is_told(server, given, uri, code):
    with pytest.raises(ModelfleetError) as caught, source_of(given, uri or server):
        pass
    assert caught.value.code == code


def test_where_mlflow_is_must_be_said_and_only_for_a_model_in_it(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError) as caught, source_of("models:/digits/1", None):
        pass
    assert caught.value.code == "mlflow_unset"
    with pytest.raises(typer.BadParameter), source_of("a.skops", NOWHERE):
        pass


def test_a_skops_model_is_held_against_its_original_and_a_pickle_only_loaded_when_it_is_trusted(
    server, there, rows, tmp_path
):
    def convert(source, *more, check=0):
        wanted = ("--name", MODEL_NAME, "--version", "1.0.0", "--data", rows, "--json", *more)
        return commanded("convert", source, *wanted, folder=tmp_path, uri=server, check=check)

    assert "model.pkl is a pickle" in convert("models:/digits/3", check=1).stderr
    assert not list(tmp_path.iterdir())
    for number, more in ((2, []), (3, ["--trust-pickle"])):
        told = convert(f"models:/digits/{number}", *more)
        assert json.loads(told.stdout)["verdict"] == "parity"
