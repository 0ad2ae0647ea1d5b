"""Self-healing on the whole: what is damaged while a device is off, it says, serves without, and fetches.

Its configuration is the one file that it never writes.
"""

import contextlib
import json
import os
import shutil
import sqlite3

import pytest

from tests.spine.claims import check_answers, check_end, check_serving
from tests.spine.processes import until
from tests.spine.soundness import DEVICE, sound_bed

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]

ACTIVE, FALLBACK = "2.0.0", "1.0.0"


@pytest.fixture(scope="module")
def bed(tmp_path_factory, bundles):
    """A bed whose device has confirmed 2.0.0 after 1.0.0, and what its configuration was then."""
    with sound_bed(tmp_path_factory.mktemp("damage"), bundles) as bed:
        bed.install(ACTIVE)
        bed.root = bed.fleet_dir / "devices" / DEVICE / "state"
        bed.config = fingerprint(bed)
        yield bed


def fingerprint(bed):
    path = bed.fleet_dir / f"{DEVICE}.toml"
    return path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino


def alarms(bed):
    rows = bed.get(f"/v1/devices/{DEVICE}/records?channel=event/alarm&limit=1000")
    return [row["body"] for row in rows]


def flip(path, query):
    """Change one bit of the value that a query on a closed database finds."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        ((value,),) = db.execute(query)
    value = value if isinstance(value, bytes) else value.encode()
    data = bytearray(path.read_bytes())
    data[data.index(value) + 1] ^= 4
    path.write_bytes(data)


def manifest_and_model(bed):
    """Return the files of the active release's manifest and model."""
    manifest = bed.root / "content" / bed.model(DEVICE)["active_manifest"]
    entries = {e["path"]: e["sha256"] for e in json.loads(manifest.read_bytes())["files"]}
    return manifest, bed.root / "content" / entries["model.onnx"]


def live_again(bed):
    """Start the device; return the version of its first answer, and what it said was lost."""
    device, known = bed.devices[DEVICE], len(alarms(bed))
    device.start()

    def answer():
        found = device.ask()
        return found if found.status == 200 else None

    first = until("it serves", answer)
    bed.until_online(DEVICE)
    check_serving(bed, {DEVICE: ACTIVE})
    bed.until(
        "the release is confirmed",
        lambda: (bed.model(DEVICE)["outcome"], bed.model(DEVICE)["state"]) == ("confirmed", "idle"),
    )
    assert fingerprint(bed) == bed.config
    fresh = alarms(bed)
    return first.version, [a["detail"] for a in fresh[: len(fresh) - known] if a["code"] == "state_lost"]  # fmt: skip


def until_told(bed, words):
    bed.until(f"it says {words!r}", lambda: any(words in a["detail"] for a in alarms(bed)))


@pytest.mark.parametrize("what", ["a byte of the model", "the end of the manifest"])
def test_a_damaged_release_makes_way_for_the_fallback_and_is_fetched_again(bed, what):
    manifest, model = manifest_and_model(bed)
    bed.devices[DEVICE].end()
    path = model if "model" in what else manifest
    good = path.read_bytes()
    path.write_bytes(good[:-1] + (bytes([good[-1] ^ 1]) if "model" in what else b""))
    version, losses = live_again(bed)
    assert (version, losses) == (FALLBACK, [])
    assert path.read_bytes() == good
    assert bed.device(DEVICE)["quarantined"] == []


def test_a_damaged_state_is_moved_aside_and_the_release_serves_at_once(bed):
    bed.devices[DEVICE].end()
    flip(bed.root / "state.db", "SELECT body FROM state")
    version, _ = live_again(bed)
    assert version == ACTIVE
    until_told(bed, "state.db cannot be read: its bytes have changed on disk; moved to state.db.u")
    assert (bed.root / "state.db.unreadable-1").exists()


def test_of_a_damaged_outbox_all_sound_records_reach_the_store(bed):
    device = bed.devices[DEVICE]
    bed.controller.end()  # nobody acknowledges
    known = len(bed.observer.records())
    until("records wait", lambda: len(bed.observer.records()) > known + 4)
    device.end()
    flip(bed.root / "outbox.db", "SELECT payload FROM record ORDER BY position LIMIT 1 OFFSET 1")
    bed.start_controller()
    bed.until_connected()
    version, _ = live_again(bed)
    assert version == ACTIVE
    until_told(bed, "outbox.db cannot be read: a record has changed on disk")
    detail = next(a["detail"] for a in alarms(bed) if "outbox.db" in a["detail"])
    saved = int(detail.rpartition(", ")[2].split()[0])
    assert saved >= 4, detail

    def missing():
        stored = {key for key, _ in bed.stored()}
        return bed.observer.records().keys() - stored

    bed.until(lambda: f"all but one are stored: {missing()}", lambda: len(missing()) <= 1)


def test_with_every_file_emptied_it_says_so_and_begins_again(bed):
    bed.devices[DEVICE].end()
    for path in bed.root.rglob("*"):
        # Whose key is gone has to be let in again by a person.
        if path.is_file() and path.parent.name != "identity":
            os.truncate(path, 0)
    live_again(bed)
    until_told(bed, "started empty")


def test_with_everything_gone_it_begins_again(bed):
    bed.devices[DEVICE].end()
    for path in bed.root.iterdir():
        if path.is_dir() and path.name != "identity":
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
    live_again(bed)


def test_after_all_of_that_everything_ends_in_good_order(bed):
    check_answers(bed)
    bed.install("3.0.0")
    check_serving(bed, {DEVICE: "3.0.0"})
    check_end(bed)
