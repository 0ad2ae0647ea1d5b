"""Stores that are locked by another program, damaged, somebody else's or from the future."""

import contextlib
import os
import shutil
import sqlite3
import time

import pytest

from fleet.store.schema import SCHEMA_VERSION
from tests.spine.bed import Device
from tests.spine.claims import check_records
from tests.spine.processes import free_port
from tests.spine.soundness import (
    DEVICE,
    Refusal,
    Stranger,
    api,
    check_complaint,
    check_refusal,
    check_sound,
    chunk_topic,
    post,
    release,
    run,
    sound_bed,
)
from wire import topics

pytestmark = [pytest.mark.broker, pytest.mark.slow]


@pytest.fixture(scope="module")
def bed(tmp_path_factory, bundles):
    with sound_bed(tmp_path_factory.mktemp("store"), bundles) as bed:
        yield bed


@contextlib.contextmanager
def locked(path, *, is_exclusive=False):
    """Hold the lock on writing; an exclusive one, which nobody else may hold open, on all of it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
        if is_exclusive:
            holder.execute("PRAGMA locking_mode=EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        yield


def state_of(bed, name=DEVICE):
    return bed.fleet_dir / "devices" / name / "state"


def count(log, words):
    return log.read_text().count(words)


# -- while they run


def test_a_controller_says_that_its_store_is_locked_and_loses_no_record(bed):
    path = bed.fleet_dir / "store" / "fleet.db"
    with locked(path):
        answer = api(bed).post("/v1/devices", json={"id": "late"})
        check_refusal(answer, Refusal(503, "store_locked", str(path)))
        assert f"fuser {path}" in answer.json()["hint"]
        assert bed.device(DEVICE)["state"] == "online"  # what is there can be read
    post(bed, "/v1/devices", {"id": "late"})
    check_records(bed)


def test_an_agent_keeps_records_in_memory_while_its_outbox_is_locked(bed):
    device, topic = bed.devices[DEVICE], topics.ControllerPresence().text
    with Stranger(bed) as stranger, locked(state_of(bed) / "outbox.db"):
        bed.until("it says so", lambda: count(device.log, "outbox.db is locked by another program"))
        for word in ("one", "two", "three"):  # each makes the agent raise an alarm
            stranger.publish(topic, word.encode())
        refused = f"refused a message on {topic}"
        bed.until("it has refused them", lambda: count(device.log, refused) == 3)
        assert device.ask().version == "1.0.0"
        assert alarms(bed) == []
    bed.until("the alarms are there", lambda: len(alarms(bed)) == 3)
    assert {alarm["code"] for alarm in alarms(bed)} == {"payload_not_json"}
    (newest,) = bed.get(f"/v1/devices/{DEVICE}/records?channel=telemetry/vitals&limit=1")
    assert newest["body"]["records_dropped"] == 0
    check_records(bed)  # without a hole


def alarms(bed):
    rows = bed.get(f"/v1/devices/{DEVICE}/records?channel=event/alarm&limit=1000")
    return [row["body"] for row in rows]


def test_an_update_waits_for_a_locked_state_and_goes_on_where_it_was(bed):
    """The last chunk comes while the state cannot be written: nobody will say that it came again."""
    device = bed.devices[DEVICE]
    bed.push("2.0.0")
    topic = chunk_topic(release(bed, "2.0.0")["index"])
    known = len(bed.observer.of("event/update"))

    def steps():
        return [one.body["to"] for one in bed.observer.of("event/update")[known:]]

    with Stranger(bed) as stranger:
        truth = stranger.retained(topic)
        stranger.publish(topic, b"", retain=True)
        rollout = bed.roll_out("2.0.0")
        bed.until("it is fetching", lambda: "fetching" in steps())
        with locked(state_of(bed) / "state.db"):
            assert steps() == ["fetching"]
            stranger.publish(topic, truth, retain=True)
            words = "state.db is locked by another program"
            bed.until("it says so", lambda: count(device.log, words))
            assert device.ask().version == "1.0.0"
            assert steps() == ["fetching"]
    ended = bed.until_ended(rollout)
    assert ended["counts"] == {"confirmed": 1}, ended
    assert device.ask().version == "2.0.0"
    told = [alarm["detail"] for alarm in alarms(bed) if alarm["code"] == "state_locked"]
    assert len(told) == 1, "told once, not every time"


def test_a_device_is_asked_about_while_its_state_is_locked(bed):
    with locked(state_of(bed) / "state.db"):
        ended = run(bed.fleet_dir, "fleet-agent", "status", "--config", f"{DEVICE}.toml")
    serving = bed.model(DEVICE)["active_version"]
    assert (ended.code, f"{serving} active" in ended.text) == (0, True), ended


def test_after_all_of_that_the_fleet_works(bed):
    check_sound(bed, "3.0.0")


# -- when an agent starts: with a copy of what the device above has


@pytest.fixture
def copy(bed, tmp_path):
    """An agent of its own, without a broker, that has what the bed's device has confirmed."""
    device = Device("copy", free_port(), tmp_path)
    # The one above may be writing: databases are copied by their own means.
    shutil.copytree(state_of(bed), tmp_path / "state", ignore=shutil.ignore_patterns("*.db*"))
    for name in ("state.db", "outbox.db"):
        with (
            contextlib.closing(sqlite3.connect(state_of(bed) / name)) as source,
            contextlib.closing(sqlite3.connect(tmp_path / "state" / name)) as target,
        ):
            source.backup(target)
    (tmp_path / "copy.toml").write_text(
        '[device]\nid = "copy"\n[broker]\nurl = "mqtt://127.0.0.1:1"\n[state]\ndir = "state"\n'
        f'[serve]\nlisten = "127.0.0.1:{device.port}"\n'
        f'[trust]\nroot = "{bed.fleet_dir / "root.json"}"\n'
    )
    yield device
    device.put_away()


def started(copy, tmp_path):
    return run(tmp_path, "fleet-agent", "run", "--config", "copy.toml")


def content(folder):
    """Return what is in a state directory, by name; each start is counted, even one in vain."""
    files = (path for path in folder.iterdir() if path.is_file() and path.name != "starts.json")
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.parametrize("name", ["state.db", "outbox.db"])
def test_an_agent_does_not_start_on_what_is_locked_and_moves_nothing(copy, tmp_path, name):
    path = tmp_path / "state" / name
    before = content(tmp_path / "state")
    with locked(path, is_exclusive=True):
        ended = started(copy, tmp_path)
        check_complaint(ended, f"{path} is locked by another program", f"fuser {path}")
    assert content(tmp_path / "state") == before


def test_an_agent_serves_though_nobody_may_write_its_state(copy, tmp_path):
    with locked(tmp_path / "state" / "state.db"):
        copy.start()
        _until_serves(copy)
    assert copy.end() == 0
    assert "Traceback" not in copy.log.read_text()


def _until_serves(copy):
    deadline_s = time.monotonic() + 60
    while copy.ask().version is None:
        assert copy.is_alive, copy.log.read_text()
        assert time.monotonic() < deadline_s, copy.log.read_text()
        time.sleep(0.05)


def test_an_agent_does_not_touch_the_state_of_a_newer_one(copy, tmp_path):
    path = tmp_path / "state" / "state.db"
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute("UPDATE meta SET value = 99 WHERE key = 'schema'")
        newer.execute("PRAGMA user_version = 99")
        newer.execute("DROP TABLE inventory")  # as if it were called otherwise by then
        newer.commit()
    before = content(tmp_path / "state")
    ended = started(copy, tmp_path)
    check_complaint(ended, str(path), "newer agent (schema 99", "install the newer agent")
    assert content(tmp_path / "state") == before


def test_an_agent_keeps_what_is_damaged_and_serves_what_it_had_settled(copy, tmp_path):
    """Without a broker: nobody could give it anything again."""
    damaged = os.urandom(20_000)
    for name in ("state.db", "outbox.db"):
        (tmp_path / "state" / name).write_bytes(damaged)
    copy.start()
    _until_serves(copy)
    assert copy.end() == 0
    assert "0 records saved" in copy.log.read_text()
    for name in ("state.db", "outbox.db"):
        assert (tmp_path / "state" / f"{name}.unreadable-1").read_bytes() == damaged
        assert f"{name} cannot be read" in copy.log.read_text()
    assert "Traceback" not in copy.log.read_text()


# -- when a controller starts


def controller(tmp_path, make, hold=contextlib.nullcontext):
    """Start a controller whose store `make` has made; return its end, the store before and after.

    `hold` is entered last: a process that closes a file drops all the locks that it has on it.
    """
    (tmp_path / "store").mkdir()
    path = tmp_path / "store" / "fleet.db"
    text = f'[broker]\nkind = "external"\nurl = "mqtt://127.0.0.1:1"\n[api]\nlisten = "127.0.0.1:{free_port()}"\n'
    (tmp_path / "fleet.toml").write_text(text)
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with hold(path):
        ended = run(tmp_path, "fleet", "controller", "run")
    return ended, before, path.read_bytes() if path.is_file() else None


def newer(path):
    with contextlib.closing(sqlite3.connect(path)) as store:
        store.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)")
        store.execute("INSERT INTO meta VALUES ('schema_version', '99')")
        store.commit()


def foreign(path):
    with contextlib.closing(sqlite3.connect(path)) as store:
        store.execute("CREATE TABLE recipes (name TEXT)")
        store.commit()


DATABASES = {
    "newer": (newer, f"version 99, this program knows {SCHEMA_VERSION}", "[store] dir"),
    "somebody-elses": (foreign, "no such table: meta", "check its owner"),
    "garbage": (lambda path: path.write_bytes(b"x" * 9000), "not a database", "restore a backup"),
    "a-folder": (lambda path: path.mkdir(), "unable to open", "check its owner"),
}


@pytest.mark.parametrize(("make", "says", "hint"), DATABASES.values(), ids=DATABASES)
def test_a_controller_does_not_start_on_another_store_and_leaves_it(tmp_path, make, says, hint):
    ended, before, after = controller(tmp_path, make)
    check_complaint(ended, "fleet.db", says, hint)
    if before is not None:
        with contextlib.closing(sqlite3.connect(tmp_path / "store" / "fleet.db")) as store:
            try:
                tables = store.execute("SELECT name FROM sqlite_master").fetchall()
            except sqlite3.DatabaseError:
                assert after == before
            else:
                assert len(tables) <= 2, tables


def test_a_controller_does_not_start_on_a_store_that_is_locked(tmp_path):
    ended, before, after = controller(tmp_path, newer, lambda path: locked(path, is_exclusive=True))
    check_complaint(ended, "fleet.db is locked by another program", "fuser")
    assert after == before
