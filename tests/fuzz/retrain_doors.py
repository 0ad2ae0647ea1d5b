"""Doors of training again: a project's section, what was started before, what a pipeline printed and says."""

from fleet.api.run_schemas import RunRecord
from fleet.cli import releases
from fleet.pipeline import made, retrain_state, triggers
from tests.fuzz.device_doors import as_file, folder, some
from tests.fuzz.door import Door
from tests.fuzz.samples import sampled_json
from tests.fuzz.written import toml
from wire.errors import ConfigError, PeerError


def doors():
    yield Door(
        "pipeline.toml, [retrain]",
        as_file(triggers.FILE_NAME, lambda path: triggers.read_watched(path.parent)),
        (ConfigError,),
        _pipeline_toml,
        None,  # the program reads a part of it
        ("fleet.pipeline.triggers",),
    )
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
        lambda data: some(made.parse_record(data)),
        (),
        sampled_json(made.Record.model_json_schema()),
        lambda record: record.model_dump_json().encode(),
        ("fleet.pipeline.made", "fleet.pipeline.watch"),
    )
    yield Door(
        "record of a run",
        as_file("record.json", releases._read_record),
        (PeerError,),
        sampled_json(RunRecord.model_json_schema()),
        lambda record: record.model_dump_json().encode(),
        ("fleet.cli.releases",),
    )


def _state(data):
    path = folder() / retrain_state.FOLDER
    path.mkdir(parents=True, exist_ok=True)
    (path / retrain_state.FILE_NAME).write_bytes(data)
    return retrain_state.read_state(folder())


def _pipeline_toml(random):
    retrain = {
        "on": random.sample(["drift", "accuracy", "schedule"], random.randrange(4)),
        "every": f"{random.randint(1, 99)}{random.choice('smhd')}",
        "cooldown": f"{random.randint(1, 99)}h",
        "budget": f"{random.randint(1, 99)} per {random.randint(1, 99)}d",
        "min_accuracy": random.random(),
    }
    rollout = {"auto": random.random() < 0.5}
    return toml({"model": {"name": "digits"}, "rollout": rollout, "retrain": retrain})
