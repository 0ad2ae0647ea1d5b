"""Either source is enough: updates on the real programs while the broker hides, lies or is gone."""

import contextlib
import json
import random  # noqa: TID251 - seeded
import signal

import pytest

from agent.adapters.identity import Identity
from agent.adapters.second_source import SecondSource
from fleet.broker import find_broker
from tests.spine.claims import check_end, check_serving
from tests.spine.packing import MANIFEST, packed, signed, unpacked
from tests.spine.processes import until
from tests.spine.soundness import Stranger, absent, chunk_topic, release, run
from wire.content import encode_chunk
from wire.errors import ConfigError, PeerError

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(180)]

DEVICE = "cam-0"
NOW = "chunks come from the controller now"
DEVICES_READ_CHUNKS = "pattern read fleet/v1/chunk/+\n"
DEVICES_READ_TRUST = "pattern read fleet/v1/trust/+\npattern read fleet/v1/trust/model/+\n"
CONTROLLER_WRITES_CHUNKS = "topic write fleet/v1/chunk/+\n"


@pytest.fixture
def bed(make_bed):
    """A fleet on mosquitto with one device that has confirmed version 1.0.0."""
    try:
        find_broker("mosquitto")
    except ConfigError as exc:
        absent(f"a broker whose rights can be changed: {exc}")
    bed = make_bed("mosquitto")
    bed.add(DEVICE)
    bed.install("1.0.0")
    return bed


def forbid(bed, *lines):
    """Have the broker withhold what these lines of its rights allow."""
    path = bed.pki.mosquitto_acl
    text = path.read_text()
    for line in lines:
        assert line in text
        text = text.replace(line, "")
    path.write_text(text)
    bed._broker.reload()


def log_of(bed):
    return bed.devices[DEVICE].log.read_text()


def confirm(bed, version):
    ended = bed.until_ended(bed.roll_out(version))
    assert ended["counts"] == {"confirmed": 1}, ended
    check_serving(bed, {DEVICE: version})


def test_a_broker_without_any_chunk_is_made_up_for(bed):
    forbid(bed, DEVICES_READ_CHUNKS)
    bed.push("2.0.0")
    confirm(bed, "2.0.0")
    assert log_of(bed).count(NOW) == 1
    check_end(bed)


def test_a_broker_that_lies_about_every_chunk_is_made_up_for(bed):
    """Nor can the controller put it right: what it publishes is dropped."""
    forbid(bed, CONTROLLER_WRITES_CHUNKS)
    bed.push("2.0.0")
    names = {path.name for path in (bed.fleet_dir / "store/chunks").glob("*/*")}
    with Stranger(bed) as stranger:
        for name in names:
            stranger.publish(chunk_topic(name), encode_chunk(b"a lie"), retain=True)
        confirm(bed, "2.0.0")
    assert "refused a chunk" in log_of(bed)
    check_end(bed)


def test_a_broker_that_withholds_metadata_is_made_up_for(bed):
    forbid(bed, DEVICES_READ_TRUST, DEVICES_READ_CHUNKS)
    bed.push("2.0.0")
    confirm(bed, "2.0.0")
    assert "documents of signed metadata" in log_of(bed)
    check_end(bed)


def test_a_device_that_is_put_out_gets_nothing_from_either(bed):
    state = bed.fleet_dir / "devices" / DEVICE / "state"
    source = SecondSource(Identity(state))
    index = release(bed, "1.0.0")["index"]
    assert source.chunk(index)
    assert examined(bed) == ("ok", f"{Identity(state).place().door_url} answers")
    bed.fleet("device", "revoke", DEVICE, "--yes")
    for ask in (lambda: source.chunk(index), lambda: source.document("timestamp.json")):
        with pytest.raises(PeerError) as caught:
            ask()
        assert caught.value.code == "revoked"
    source.close()
    assert examined(bed) == ("warning", f"this certificate of {DEVICE} is revoked")


def test_its_doctor_finds_out_that_it_can_write_in_the_name_of_others(bed):
    no = "what it writes in another's name does not get through"
    assert examined(bed, "writing") == ("ok", no)
    path = bed.pki.mosquitto_acl
    path.write_text(f"{path.read_text()}\npattern write fleet/v1/device/+/reported\n")
    bed._broker.reload()
    verdict, text = examined(bed, "writing")
    assert verdict == "fault"
    assert text.startswith("the controller heard what this device wrote in the name of doctor-")
    assert examined(bed, "confinement")[0] == "ok", "what it cannot read shows nothing"
    check_end(bed)


def test_on_nats_its_doctor_finds_it_confined(make_bed):
    bed = make_bed("nats")
    bed.add(DEVICE)
    bed.install("1.0.0")
    for subject in ("broker", "confinement", "controller", "second source", "writing"):
        assert examined(bed, subject)[0] == "ok", subject
    check_end(bed)


def examined(bed, subject="second source"):
    """Return what the device's own doctor says of a subject."""
    ended = run(bed.fleet_dir, "fleet-agent", "doctor", "--json", "--config", f"{DEVICE}.toml")
    (found,) = [each for each in json.loads(ended.text) if each["subject"] == subject]
    return found["verdict"], found["text"]


def test_killed_in_the_middle_of_a_pull_it_goes_on_from_there(bed, bundles, tmp_path):
    forbid(bed, DEVICES_READ_CHUNKS)
    bed.push_file(large_bundle(bundles, tmp_path, "2.0.0"))
    device, chunks = bed.devices[DEVICE], bed.fleet_dir / "devices" / DEVICE / "state/chunks"
    rollout = bed.roll_out("2.0.0")
    until("some chunks are here", lambda: len(list(chunks.iterdir())) > 50)
    device.send(signal.SIGKILL)
    until("it is gone", lambda: not device.is_alive)
    here = {path.name: path.stat().st_ino for path in chunks.iterdir() if "." not in path.name}
    assert 40 < len(here) < CHUNK_COUNT, "it was not killed in the middle"
    written_again = set()
    device.start()
    while not bed.rollout(rollout)["counts"].get("confirmed"):
        for name, inode in here.items():
            with contextlib.suppress(FileNotFoundError):
                if (chunks / name).stat().st_ino != inode:
                    written_again.add(name)
    assert not written_again, "what was here was fetched again"
    check_serving(bed, {DEVICE: "2.0.0"})
    check_end(bed)


CHUNK_COUNT = 400


def large_bundle(bundles, folder, version):
    """Return a bundle with a further file that makes some hundred chunks."""
    files = unpacked(bundles.path(version))
    files |= {"more.bin": random.Random(5).randbytes(CHUNK_COUNT * 31_000)}
    listed = [*json.loads(files[MANIFEST])["files"], {"path": "more.bin", "media_type": "x/y"}]
    path = folder / "large.bundle"
    path.write_bytes(packed(signed(files, files=listed)))
    return path
