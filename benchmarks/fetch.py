"""How fast a real agent brings a release to its disk, from each broker."""

from __future__ import annotations

import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from fleets import Fleet
from models import Models
from observer import Observer
from programs import BENCHMARKS, BenchError, run, wait_for
from result import Line, Outcome

from agent.core.fetch_plan import SILENCE_S
from fleet.broker import find_broker
from wire.errors import ConfigError

WIDTH, LAYERS = 2048, 4
VERSION = "1.0.0"
MEMORY_DISK = Path("/dev/shm")  # noqa: S108 - a file system in memory is what is wanted
PULLS = BENCHMARKS / "pulls.py"


def measure(directory: Path, models: Models, *, is_quick: bool) -> Outcome:
    """Have fresh agents fetch the same release, in turns with receivers that have none of our code."""
    bundle = models.network(VERSION, width=WIDTH, layers=LAYERS, body=3, head=3)
    name = bundle.name.removesuffix(f"-{VERSION}.bundle")
    with tarfile.open(bundle) as tar:
        size_mb = sum(member.size for member in tar.getmembers()) / 1e6
    runs = 2 if is_quick else 5
    lines, notes = [], []
    for kind in ("mosquitto", "nats"):
        try:
            find_broker(kind)
        except ConfigError:
            notes.append(f"{kind} is not installed here.")
            continue
        with Fleet(directory / kind, kind) as fleet, Observer(fleet) as observer:
            fleet.push(bundle)
            rates = [_round(fleet, observer, f"{name}:{VERSION}", n, size_mb) for n in range(runs)]
            direct = [
                _direct(fleet, observer, f"{name}:{VERSION}", n, size_mb)
                for n in range(runs if kind == "mosquitto" else 0)
            ]
        disk, memory, paho, plain = (list(column) for column in zip(*rates, strict=True))
        socket, alone = "one TCP connection into a synced file", "paho alone, nothing kept"
        lines += [
            Line(f"from {kind}", "MB/s", disk, socket, plain, "higher"),
            Line(f"from {kind}", "MB/s", disk, alone, paho, "higher"),
            Line(f"from {kind}, state on tmpfs", "MB/s", memory, alone, paho, "higher"),
        ]
        if direct:
            own = "from the controller over HTTPS"
            lines.append(Line(own, "MB/s", direct, f"from {kind}", disk, "higher"))
    if not lines:
        raise BenchError("there is no broker on this machine")
    return Outcome(
        title="Content fetch rate",
        how=(
            f"A release of {size_mb:.0f} MB (plain bytes), fetched by agents that have nothing "
            "yet: from the assignment to the last file assembled, verified against the manifest "
            "and synced, by the device's own events. The first floor is the same payloads over one "
            "plain TCP connection, written to one file and synced once. The second is a paho client "
            "that subscribes to the same chunks from the same broker in the same window of 8, and "
            "neither opens, verifies nor keeps them. For the row over HTTPS the broker withholds all "
            "chunks; the one silence of 5 s, after which the controller is asked, is taken off."
        ),
        lines=lines,
        notes=notes,
        why=(
            "On a fresh file system a third of the fetch is writing each chunk to a file of its "
            "own, by which a fetch resumes after any cut; decompressing and checking is a sixth, "
            "putting the files together another sixth. The rest is the network thread and the "
            "fetcher waiting for each other: both are Python. On ext4 without a journal, fetches "
            "soon after one another get slower, since the kernel passes over inodes that were "
            "deleted just now: seven in turns on the same machine fell from 61 to 31 MB/s there and "
            "stayed at 53 to 67 on ext4 with a journal. Whether the disk here has one decides the "
            "first rows; tmpfs shows the fetcher without it."
        ),
    )


def _round(
    fleet: Fleet, observer: Observer, release: str, number: int, size_mb: float
) -> tuple[float, float, float, float]:
    """Return the rates of two fresh agents (disk, memory), of paho alone and of a plain socket."""
    disk_s = _fetch_s(fleet, observer, release, f"cam-{number:02}-disk", None)
    memory = Path(tempfile.mkdtemp(dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None))
    try:
        memory_s = _fetch_s(fleet, observer, release, f"cam-{number:02}-tmpfs", memory)
    finally:
        shutil.rmtree(memory)
    folder = fleet.directory / "store" / "chunks"
    listing = fleet.directory / "digests"
    listing.write_text("\n".join(sorted(path.name for path in folder.glob("??/*"))))
    fleet.watcher("pull")
    paho = run([sys.executable, PULLS, "paho", fleet.broker_port, listing], cwd=fleet.directory)
    target = fleet.directory / "pulled"
    plain = run([sys.executable, PULLS, "socket", folder, listing, target], cwd=fleet.directory)
    return size_mb / disk_s, size_mb / memory_s, size_mb / float(paho), size_mb / float(plain)


def _direct(fleet: Fleet, observer: Observer, release: str, number: int, size_mb: float) -> float:
    """Return the rate of a fresh agent that the broker gives nothing."""
    device = f"cam-{number:02}-direct"
    took_s = _fetch_s(fleet, observer, release, device, None, is_withheld=True)
    return size_mb / (took_s - SILENCE_S)


def _fetch_s(
    fleet: Fleet,
    observer: Observer,
    release: str,
    device: str,
    state: Path | None,
    *,
    is_withheld: bool = False,
) -> float:
    """Return the seconds that a fresh agent takes, with its state in `state` or where it belongs."""
    fleet.add_devices([device])
    if state is not None:
        path = fleet.configuration(device)
        lines = path.read_text().splitlines()
        place = next(n for n, line in enumerate(lines) if line.startswith("dir = "))
        lines[place] = f'dir = "{state}"'
        path.write_text("\n".join(lines) + "\n")
    agent = fleet.start_agent(device)
    fleet.wait_until_online([device])
    if is_withheld:
        fleet.withhold_chunks()
    fleet.start_rollout(release, match=f"name={device}", min_inferences="0")
    fetched = wait_for(
        f"{device} to fetch",
        lambda: observer.of("fetched").get(device),
        program=agent,
        timeout_s=120,
    )
    began = observer.of("assigned")[device]
    fleet.stop_agent(device)
    return fetched.told_s - began.told_s
