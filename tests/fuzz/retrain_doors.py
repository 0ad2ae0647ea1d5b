"""Doors of training: what was started before, what a pipeline printed and says, what a registry has."""

import json

from fleet.api.run_schemas import RunRecord
from fleet.cli import releases
from fleet.interop import mlmodel
from fleet.pipeline import record, retrain_state
from tests.fuzz.device_doors import as_file, folder, some
from tests.fuzz.door import Door
from tests.fuzz.samples import sampled_json
from wire.errors import ConfigError, PeerError


def doors():
    yield Door(
        "state of retraining",
        _state,
        (ConfigError,),
        sampled_json(retrain_state.State.model_json_schema()),
        lambda state: state.model_dump_json().encode(),
        ("fleet.pipeline.retrain_state",),
    )
    yield Door(
        "what a pipeline prints",
        lambda data: some(record.parse_record(data)),
        (),
        sampled_json(record.RunRecord.model_json_schema()),
        lambda found: found.model_dump_json().encode(),
        ("fleet.pipeline.watch",),
    )
    yield Door(
        "record of a run",
        as_file("record.json", releases._read_record),
        (PeerError,),
        sampled_json(RunRecord.model_json_schema()),
        lambda found: found.model_dump_json().encode(),
        ("fleet.cli.releases",),
    )
    yield Door(
        "MLmodel",
        mlmodel.read_mlmodel,
        (PeerError,),
        _mlmodel,
        lambda found: _flavor(found.flavor, found.path).encode(),
        ("fleet.interop.mlmodel",),
    )


def _mlmodel(random):
    """Return a file as MLflow writes it, of one of the flavours that it has."""
    flavor = random.choice(("onnx", "sklearn"))
    path = f"model{random.choice(mlmodel.SUFFIXES[flavor])}"
    return (
        f"artifact_path: mlflow-artifacts:/1/models/m-{random.randrange(10**9)}/artifacts\n"
        f"{_flavor(flavor, path)}  python_function:\n    loader_module: mlflow.{flavor}\n"
        "mlflow_version: 3.17.2\nprompts: null\nutc_time_created: '2026-11-28 17:54:14.222645'\n"
    ).encode()


def _flavor(flavor, path):
    key = {"onnx": "data", "sklearn": "pickled_model"}[flavor]
    return f"flavors:\n  {flavor}:\n    {key}: {json.dumps(path)}\n"


def _state(data):
    path = folder() / retrain_state.FOLDER
    path.mkdir(parents=True, exist_ok=True)
    (path / retrain_state.FILE_NAME).write_bytes(data)
    return retrain_state.read_state(folder())
