"""Disks that are full or read-only, under the store, the state, and what the converter writes."""

import contextlib
import os
import shutil
import signal
import subprocess

import pytest

from tests.conformance.repository import Repository
from tests.spine.bed import Device
from tests.spine.claims import check_end, check_records, check_serving
from tests.spine.models import NAME
from tests.spine.processes import free_port
from tests.spine.soundness import (
    DEVICE,
    Refusal,
    absent,
    api,
    check_complaint,
    check_refusal,
    run,
    situation,
    sound_bed,
)

pytestmark = [pytest.mark.broker, pytest.mark.system, pytest.mark.slow]

MIB = 2**20
SIZE = 64 * MIB
FILLER = "filler"
NO_ROOM = "No space left on device"


class Disk:
    """A file system of its own in memory, mounted at a path; what is there is kept."""

    def __init__(self, path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.aside")
        shutil.copytree(path, aside)
        self._do("mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", path)
        shutil.copytree(aside, path, dirs_exist_ok=True)

    def fill(self, *, free_bytes=0):
        """Leave this much room; to the last byte when it is none."""
        with (self.path / FILLER).open("ab", buffering=0) as file, contextlib.suppress(OSError):
            block = bytes(4096)
            while free_bytes == 0 or shutil.disk_usage(self.path).free > free_bytes:
                file.write(block)

    def clear(self):
        (self.path / FILLER).unlink(missing_ok=True)

    def lock(self):
        self._do("mount", "-o", "remount,ro", self.path)

    def unlock(self):
        self._do("mount", "-o", "remount,rw", self.path)

    def remove(self):
        self._do("umount", "--lazy", self.path)

    def _do(self, *argv):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            absent(f"full and read-only disks, since {argv[0]} failed: {done.stderr}")


@pytest.fixture(scope="module", autouse=True)
def _is_root():
    if os.geteuid() != 0:
        absent("full and read-only disks: only root may mount")


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.remove()


@pytest.fixture(scope="module")
def bed(tmp_path_factory, bundles):
    """A bed whose controller has its store, and whose device its state, on a disk of its own."""
    with sound_bed(tmp_path_factory.mktemp("disk"), bundles) as bed:
        device = bed.devices[DEVICE]
        assert (device.end(), bed.controller.end()) == (0, 0)
        bed.store = Disk(bed.fleet_dir / "store")
        bed.state = Disk(bed.fleet_dir / "devices" / DEVICE / "state")
        bed.start_controller()
        device.start()
        bed.until_online(DEVICE)
        check_serving(bed, {DEVICE: "1.0.0"})
        # Told in a report of its own once a runtime has started, after it is online and serves.
        bed.until("it says what it runs", lambda: bed.device(DEVICE)["inventory"].get("runtime"))
        yield bed
        bed.put_away()
        bed.store.remove()
        bed.state.remove()


def test_a_full_store_refuses_what_it_cannot_keep_and_goes_on_when_there_is_room(bed, bundles):
    before = situation(bed)
    bed.store.fill()
    pushed = api(bed).post("/v1/bundles", content=bundles.path("2.0.0").read_bytes())
    check_refusal(pushed, Refusal(503, "upload_write", NO_ROOM))
    assert "free space" in pushed.json()["hint"]
    added = api(bed).post("/v1/devices", json={"id": "late"})
    check_refusal(added, Refusal(503, "store_full", "fleet.db: the disk is full"))
    ended = run(bed.fleet_dir, "fleet", "push", str(bundles.path("2.0.0")))
    check_complaint(ended, "2.0.0.bundle", NO_ROOM, "free space")
    assert situation(bed) == before
    assert bed.devices[DEVICE].ask().version == "1.0.0"
    bed.store.clear()
    assert api(bed).post("/v1/devices", json={"id": "late"}).status_code == 201
    bed.push("2.0.0")
    check_records(bed)  # those that came meanwhile too


def test_a_device_with_no_room_at_all_serves_on_and_updates_when_there_is_some(bed):
    device = bed.devices[DEVICE]
    bed.push("2.0.0")
    bed.state.fill()
    rollout = bed.roll_out("2.0.0")
    bed.until("it says so", lambda: "the disk is full" in device.log.read_text())
    assert (device.ask().version, bed.rollout(rollout)["state"]) == ("1.0.0", "running")
    bed.state.clear()
    ended = bed.until_ended(rollout)
    assert ended["counts"] == {"confirmed": 1}, ended
    check_serving(bed, {DEVICE: "2.0.0"})
    check_records(bed)


def test_a_device_without_room_for_an_update_fails_it_and_serves_on(bed):
    bed.push("3.0.0")
    bed.state.fill(free_bytes=8 * MIB)  # below what an update must leave
    ended = bed.until_ended(bed.roll_out("3.0.0"))
    (member,) = ended["members"]
    assert (ended["state"], member["state"], member["code"]) == ("halted", "failed", "disk_full")
    assert "kB are free" in member["detail"]
    check_serving(bed, {DEVICE: "2.0.0"})
    bed.state.clear()
    bed.install("3.0.0")
    check_serving(bed, {DEVICE: "3.0.0"})


HARMS = {"full": (Disk.fill, Disk.clear), "read-only": (Disk.lock, Disk.unlock)}
ENDS = {"orderly": Device.end, "killed": lambda device: device.end(signal.SIGKILL)}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(("harm", "mend"), HARMS.values(), ids=HARMS)
def test_a_device_starts_and_serves_on_such_a_disk_and_updates_when_it_works_again(
    bed, harm, mend, end
):
    device = bed.devices[DEVICE]
    before = bed.model(DEVICE)["active_version"]
    newer = f"{int(before[0]) + 1}.0.0"
    bed.push(newer)
    end(device)
    bed.until_online(DEVICE, is_online=False)
    told = len(device.log.read_text())
    harm(bed.state)
    device.start()
    check_serving(bed, {DEVICE: before})
    bed.until_online(DEVICE)
    harm(bed.state)  # a journal that was not needed any more has made some room
    rollout = bed.roll_out(newer)
    for program in ("status", "doctor"):
        ended = run(bed.fleet_dir, "fleet-agent", program, "--config", f"{DEVICE}.toml")
        assert before in ended.text, ended
        is_closed = (
            end is Device.end or harm is Disk.lock
        )  # a killed one's journal has its index yet
        assert not is_closed or "cannot write" in ended.text, ended
    log = device.log.read_text()[told:]
    assert "state.db" in log, log
    assert bed.rollout(rollout)["state"] == "running"
    mend(bed.state)
    ended = bed.until_ended(rollout)
    if ended["counts"] == {"failed": 1}:
        # A journal that was begun anew made room for the state, and none for the bundle.
        assert harm is Disk.fill, ended
        assert [member["code"] for member in ended["members"]] == ["disk_full"]
        check_serving(bed, {DEVICE: before})
        ended = bed.until_ended(bed.roll_out(newer))
    assert ended["counts"] == {"confirmed": 1}, ended
    check_serving(bed, {DEVICE: newer})
    check_records(bed)
    rows = bed.get(f"/v1/devices/{DEVICE}/records?channel=event/alarm&limit=1000")
    assert "state.db" in rows[0]["body"]["detail"] or "disk" in rows[0]["body"]["detail"], rows


def test_a_bundle_that_does_not_fit_is_not_there_in_part(disk, bundles):
    source = bundles.path("2.0.0").with_suffix(".onnx")
    disk.fill()
    output = disk.path / "out.bundle"
    ended = run(
        disk.path.parent, "fleet", "convert", str(source), "--name", NAME, "--version", "2.0.0",
        "--data", str(source.parent / "few.npz"), "--output", str(output),
    )  # fmt: skip
    check_complaint(ended, str(output), NO_ROOM)
    assert [path.name for path in disk.path.iterdir()] == [FILLER]


AGENT = (
    '[device]\nid = "x"\n[broker]\nurl = "mqtt://127.0.0.1:1"\n'
    '[state]\ndir = "disk/state"\n[serve]\nlisten = "127.0.0.1:{port}"\n'
    '[trust]\nroot = "root.json"\n'
)
FLEET = (
    '[broker]\nkind = "external"\nurl = "mqtt://127.0.0.1:1"\n'
    '[store]\ndir = "disk/store"\n[api]\nlisten = "127.0.0.1:{port}"\n'
)
PROGRAMS = {
    "agent": ("a.toml", AGENT, ("fleet-agent", "run", "--config", "a.toml"), "[state] dir"),
    "controller": ("fleet.toml", FLEET, ("fleet", "controller", "run"), "is the disk full"),
    "detached": ("fleet.toml", FLEET, ("fleet", "up", "--detach"), "is the disk full"),
}


@pytest.mark.parametrize(("file", "text", "argv", "hint"), PROGRAMS.values(), ids=PROGRAMS)
def test_what_cannot_write_at_all_does_not_start_and_says_where(disk, file, text, argv, hint):
    folder = disk.path.parent
    (folder / file).write_text(text.replace("{port}", str(free_port())))
    (folder / "root.json").write_bytes(Repository().bootstrap)
    for name in ("state", "store"):
        (disk.path / name).mkdir()
    disk.lock()
    ended = run(folder, *argv)
    check_complaint(ended, "cannot write", "/disk/", "Read-only file system", hint)


@pytest.mark.parametrize(("file", "text", "argv", "hint"), PROGRAMS.values(), ids=PROGRAMS)
def test_what_has_no_room_to_begin_says_so(disk, file, text, argv, hint):
    folder = disk.path.parent
    (folder / file).write_text(text.replace("{port}", str(free_port())))
    (folder / "root.json").write_bytes(Repository().bootstrap)
    for name in ("state", "store"):
        (disk.path / name).mkdir()
    disk.fill()
    ended = run(folder, *argv)
    check_complaint(ended, "/disk/")
    assert any(words in ended.text for words in (NO_ROOM, "disk is full", "a full disk")), ended


def test_after_all_of_that_everything_ends_in_good_order(bed):
    check_end(bed)
