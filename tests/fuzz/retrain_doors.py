"""Doors of training again: a project's section, what was started before, what a pipeline printed and says."""

from fleet.api.run_schemas import RunRecord
from fleet.cli import releases
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


def _state(data):
    path = folder() / retrain_state.FOLDER
    path.mkdir(parents=True, exist_ok=True)
    (path / retrain_state.FILE_NAME).write_bytes(data)
    return retrain_state.read_state(folder())
