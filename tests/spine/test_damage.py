"""Self-healing on the whole: what is damaged while a device is off, it says, serves without, and fetches.

Its configuration is the one file that it never writes.
"""

import contextlib
import json
import os
import re
import shutil
import sqlite3

import pytest

from tests.spine.claims import check_answers, check_end, check_serving
from tests.spine.processes import until
from tests.spine.soundness import DEVICE, run, sound_bed

COPY = "identity.copy"

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


def lose_identity(bed):
    """Remove one copy of the identity, and damage the other."""
    shutil.rmtree(bed.root / "identity")
    copy = bed.root / COPY
    copy.write_bytes(copy.read_bytes()[:-3])


def new_token(bed):
    """Return address and token of the command that lets the device in."""
    return re.search(r"--url (\S+) --token (\S+)", bed.fleet("device", "token", DEVICE)).groups()


def let_in(bed):
    """Enrol the device beside its running agent, as a person does."""
    url, token = new_token(bed)
    enroll = ("enroll", "--config", f"{DEVICE}.toml", "--url", url, "--token", token)
    said = run(bed.fleet_dir, "fleet-agent", *enroll)
    assert said.code == 0, said


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


@pytest.mark.parametrize("name", ["device.pem", "fleet.json", "ca.pem", "root.json"])
def test_a_damaged_identity_is_put_back_from_its_second_copy(bed, name):
    bed.devices[DEVICE].end()
    path = bed.root / "identity" / name
    good = path.read_bytes()
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 1
    path.write_bytes(damaged)
    version, _ = live_again(bed)
    assert version == ACTIVE
    until_told(bed, f"identity: {name} (")
    assert path.read_bytes() == good
    assert path.with_name(f"{name}.unreadable-1").read_bytes() == damaged


def test_without_an_identity_it_serves_says_so_and_is_let_in_by_a_new_token(bed):
    device = bed.devices[DEVICE]
    device.end()
    lose_identity(bed)
    device.start()
    until("it serves", lambda: device.ask().version == ACTIVE)
    until("it says why", lambda: "the identity of this device is lost" in device.log.read_text())
    for command in ("doctor", "status"):
        said = run(bed.fleet_dir, "fleet-agent", command, "--config", f"{DEVICE}.toml")
        assert "the identity of this device is lost" in said.text, said
        assert "fleet device token NAME" in said.text
    bed.until_online(DEVICE, is_online=False)
    (runtime,) = device.runtimes()
    let_in(bed)
    bed.until_online(DEVICE)
    until_told(bed, "the identity of this device is lost")
    check_serving(bed, {DEVICE: ACTIVE})
    assert device.runtimes() == [runtime], "it was started again"
    assert (bed.root / COPY).exists()


def test_without_an_identity_it_enrols_by_itself_with_a_good_token_in_its_configuration(bed):
    device = bed.devices[DEVICE]
    device.end()
    lose_identity(bed)
    _, token = new_token(bed)
    path = bed.fleet_dir / f"{DEVICE}.toml"
    path.write_text(re.sub(r"mfjoin_\w+", token, path.read_text()))
    bed.config = fingerprint(bed)
    version, _ = live_again(bed)
    assert version == ACTIVE


def test_without_a_root_of_trust_it_serves_and_a_new_token_brings_one(bed):
    bed.devices[DEVICE].end()
    (bed.root / "identity/root.json").unlink()
    (bed.root / COPY).unlink()
    version, _ = live_again(bed)
    assert version == ACTIVE
    until_told(bed, "this device has no root of trust")
    said = run(bed.fleet_dir, "fleet-agent", "doctor", "--config", f"{DEVICE}.toml")
    assert "root of trust" in said.text
    let_in(bed)
    bed.until("all is well", lambda: "root of trust" not in run(
        bed.fleet_dir, "fleet-agent", "doctor", "--config", f"{DEVICE}.toml").text)  # fmt: skip


def test_one_set_up_by_hand_serves_without_its_certificates_and_connects_when_they_are_there(bed):
    device = bed.devices[DEVICE]
    device.end()
    path, own = bed.fleet_dir / f"{DEVICE}.toml", bed.root / "identity"
    enrolled, url = path.read_text(), json.loads((own / "fleet.json").read_text().split("\n", 2)[2])
    by_hand = f'[broker]\nurl = "{url["broker_url"]}"\nca = "hand.ca"\ncertificate = "hand.pem"\n'
    path.write_text(re.sub(r"\[enroll\]\n(.+\n)+", by_hand, enrolled))
    device.start()
    try:
        until("it serves", lambda: device.ask().version == ACTIVE)
        assert "cannot use" in device.log.read_text()
        said = run(bed.fleet_dir, "fleet-agent", "check-config", "--config", f"{DEVICE}.toml")
        assert said.code == 1
        bed.until_online(DEVICE, is_online=False)
        shutil.copy(own / "ca.pem", bed.fleet_dir / "hand.ca")
        shutil.copy(own / "device.pem", bed.fleet_dir / "hand.pem")
        bed.until_online(DEVICE)
        assert device.end() == 0
    finally:
        path.write_text(enrolled)
        bed.config = fingerprint(bed)
    live_again(bed)


def test_with_every_file_emptied_it_says_so_and_begins_again(bed):
    bed.devices[DEVICE].end()
    for path in bed.root.rglob("*"):
        # Without it, too, a person would have to let it in again.
        if path.is_file() and path.name != COPY:
            os.truncate(path, 0)
    live_again(bed)
    until_told(bed, "started empty")


def test_with_everything_gone_but_one_copy_of_its_identity_it_begins_again(bed):
    bed.devices[DEVICE].end()
    for path in bed.root.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != COPY:
            path.unlink()
    live_again(bed)


def test_after_all_of_that_everything_ends_in_good_order(bed):
    check_answers(bed)
    bed.install("3.0.0")
    check_serving(bed, {DEVICE: "3.0.0"})
    check_end(bed)
