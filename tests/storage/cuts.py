"""Method B: the power is cut at an instant that nobody chose, and what the disk has then is mounted.

The device's disk is an ext4 image within an XFS that shares blocks: a clone of the image, made in one
step, is the disk as the cut left it. Mounting it replays ext4's journal, as a device does.
"""

import contextlib
import copy
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.storage import tracer
from tests.storage.kills import SHM, let_pass, life, row, scenario_of
from tests.storage.ledger import Ledger
from tests.storage.witness import Memory

MIB = 2**20
POOL_BYTES = 400 * MIB
"""Of the XFS; its mkfs refuses less than 300 MiB. Sparse: takes what is written."""
DISK_BYTES = 96 * MIB
"""Room for the floor that an update must leave, with all records of a device that nobody acknowledges."""
LONGEST_S = 0.15
"""A cut comes at most this long after the one before: about two stages of a scenario."""
PER_DISK = 50
"""Cuts before a device gets a new disk: its outbox fills with what is never acknowledged."""
LINGERS_S = 30
_FICLONE = 0x40049409  # linux/fs.h
_CLONE_NEWNS = 0x20000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):  # noqa: N818 - a reason to skip
    """This machine cannot do it: not root, or no XFS, ext4 or loop devices."""


def cut_power(seed, count):
    """Cut the power of one device `count` times; return what came of each cut.

    Raises:
        Unavailable: See there.
    """
    scenario, chance = scenario_of(seed), np.random.default_rng([seed, 1])
    with _disks() as (pool, disk):
        memory, ledger = Memory(), Ledger(scenario)
        state = disk / "state"
        state.mkdir()
        _command("sync", "-f", state)
        writer = _started(life(state, memory, ledger, is_endless=True))
        try:
            for number in range(count):
                os.kill(writer, signal.SIGCONT)
                time.sleep(chance.uniform(0, LONGEST_S))  # the instant
                ledger.read(memory.lines())
                # Each in a file of its own: a loop device that lingers would show the one before.
                cut = pool / f"cut-{number}.img"
                _clone(pool / "disk.img", cut)
                os.kill(writer, signal.SIGSTOP)
                left = copy.deepcopy(ledger)
                ledger.read(lines := memory.lines())
                left.read_unacknowledged(lines)
                _restart(cut, left)
                cut.unlink()
                yield row("cut", left, seed=seed, number=number)
                assert os.waitpid(writer, os.WNOHANG) == (0, 0), "the writer has ended"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
            memory.close()


def cut_one_disk(seed):
    """Return what came of `PER_DISK` cuts of one device."""
    return list(cut_power(seed, PER_DISK))


def _restart(image, ledger):
    """Mount the disk that the cut left, and live on it to the end of the scenario."""
    memory = Memory()
    try:
        with _mounted(image, image.parent.parent / "cut"):
            root = image.parent.parent / "cut" / "state"
            ended = tracer.run(life(root, memory, ledger), (), root, let_pass)
            ledger.read(memory.lines())
            ledger.check_end(ended.code)
    finally:
        memory.close()


def _started(main):
    child = os.fork()
    if child == 0:
        try:
            main()
        finally:
            os._exit(1)  # it is to go on for ever
    return child


@contextlib.contextmanager
def _disks():
    """Give the directory of the pool, and the mounted disk whose image is `disk.img` in it."""
    if os.geteuid() != 0:
        raise Unavailable("only root may mount")
    _mount_for_itself()
    folder = Path(tempfile.mkdtemp(dir=SHM if SHM.is_dir() else None, prefix="modelfleet-cut-"))
    pool, disk = folder / "pool", folder / "disk"
    try:
        _allocate(folder / "pool.img", POOL_BYTES)
        _command("mkfs.xfs", "-q", "-m", "reflink=1", folder / "pool.img")
        with _mounted(folder / "pool.img", pool):
            _allocate(pool / "disk.img", DISK_BYTES)
            _command("mkfs.ext4", "-q", pool / "disk.img")
            # ext4 repairs on its own what programs forget to sync before a rename; not here.
            with _mounted(pool / "disk.img", disk, "noauto_da_alloc"):
                yield pool, disk
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mount_for_itself():
    """Have nobody else see what is mounted from here on.

    A container that starts meanwhile would copy the mounts of the machine, and hold them for as long
    as it lives: what is busy cannot be unmounted.
    """
    if _libc.unshare(_CLONE_NEWNS) != 0:
        raise Unavailable(f"no mounts of its own: {os.strerror(ctypes.get_errno())}")
    _command("mount", "--make-rprivate", "/")


@contextlib.contextmanager
def _mounted(image, target, *options):
    target.mkdir(exist_ok=True)
    _command("mount", "-o", ",".join(["loop", *options]), image, target)
    try:
        yield
    finally:
        _unmount(target)


def _unmount(target):
    """Unmount; on a busy machine the loop device of a disk within lingers on for a moment."""
    deadline_s = time.monotonic() + LINGERS_S
    while True:
        try:
            return _command("umount", target)
        except Unavailable:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.1)


def _allocate(path, size_bytes):
    with path.open("wb") as file:
        file.truncate(size_bytes)


def _clone(source, target):
    with source.open("rb") as old, target.open("wb") as new:
        fcntl.ioctl(new, _FICLONE, old.fileno())


def _command(*argv):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError as exc:
        raise Unavailable(f"{argv[0]} is not installed") from exc
    if done.returncode != 0:
        raise Unavailable(f"{argv[0]} failed: {done.stderr.strip()}")
