"""The controller on PostgreSQL: killed in the middle of a rollout, and the server after it."""

import shutil
import signal

import pytest

from tests.postgres import Cluster, need_postgres
from tests.spine.claims import (
    check_answers,
    check_end,
    check_forward,
    check_phases,
    check_records,
    check_serving,
)
from tests.spine.processes import free_port
from tests.spine.soundness import check_complaint, run

pytestmark = [pytest.mark.broker, pytest.mark.postgres, pytest.mark.slow]

NAMES = ("cam-0", "cam-1", "cam-2")


@pytest.fixture
def server():
    """A PostgreSQL that syncs, as it does where it was not told otherwise."""
    need_postgres()
    cluster = Cluster(is_durable=True)
    yield cluster
    cluster.remove()


def check_that_a_second_controller_is_refused(bed, folder):
    """From the same fleet.toml in another folder, as on another host: no lease of a file is there."""
    shutil.copytree(bed.fleet_dir, folder, ignore=shutil.ignore_patterns("devices", "*.pid"))
    path = folder / "fleet.toml"
    lines = path.read_text().splitlines()
    own = [f'listen = "127.0.0.1:{free_port()}"' if x.startswith("listen") else x for x in lines]
    path.write_text("\n".join(own))
    refused = run(folder, "fleet", "controller", "run")
    check_complaint(refused, "has a controller", "one controller at a time")


def test_a_rollout_survives_a_killed_controller_and_a_crashed_server(server, make_bed, tmp_path):
    bed = make_bed("mosquitto", store_url=server.database(is_empty=True))
    bed.add(*NAMES)
    bed.install("1.0.0")
    check_that_a_second_controller_is_refused(bed, tmp_path / "other")
    manifest = bed.push("2.0.0")
    rollout = bed.roll_out("2.0.0", phases=("1", "100%"), soak_s=1)
    bed.until("the first phase is under way", lambda: bed.observer.given(rollout))
    bed.controller.end(signal.SIGKILL)
    bed.start_controller()
    bed.until(
        "the second phase is under way", lambda: len(bed.observer.given(rollout)) == len(NAMES)
    )
    server.stop(signal.SIGQUIT)
    for name in NAMES:  # what they report of it, nobody can note
        bed.until_served(name, "2.0.0")
    server.start()
    ended = bed.until_ended(rollout)
    assert (ended["state"], ended["counts"]) == ("finished", {"confirmed": len(NAMES)}), ended
    check_phases(bed, rollout, manifest)
    check_serving(bed, dict.fromkeys(NAMES, "2.0.0"))
    check_records(bed)
    check_answers(bed)
    check_forward(bed)
    assert bed.controller.log.read_text().count("cannot reach postgresql://") >= 1
    assert "whole: " in bed.fleet("audit", "verify")
    check_end(bed)
