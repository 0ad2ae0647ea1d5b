"""Hostile models on the whole: controller, broker, agent and an application that asks all the time.

Each is pushed like any other release, its manifest declares what it does, and its digests agree: only
the device finds out. The rollout halts, the device serves the release before, nobody loses a request
beyond the one in flight, and the digest is quarantined with a code and words. The table is printed.
"""

import hashlib
import io
import json
import tarfile
import time
from dataclasses import dataclass

import numpy as np
import pytest
from onnx import helper

from fleet.broker import find_broker
from tests import hostile
from tests.hostile import as_bytes
from tests.spine.bed import Bed
from tests.spine.claims import check_end, check_records, check_serving
from tests.spine.processes import until
from tests.spine.soundness import DEVICE, absent
from wire.errors import BundleError, ConfigError
from wire.graph import scan_model
from wire.manifest import GOLDEN, MANIFEST, MODEL

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(240)]

ONES = np.ones((8, hostile.N_FEATURES), np.float32)
SUMS = ONES.sum(axis=1, keepdims=True)
MOST = 127.0
"""The highest feature that is asked for, where it rises."""
SERVE = "[serve]\nstart_timeout_s = 12\nrequest_deadline_s = 1"


@dataclass(frozen=True)
class Row:
    """A model, where it is found out, and what is said of it.

    From a feature of 10 on those do harm that are found out on probation; golden answers are off by
    `offset`. The application's feature rises by `feature_per_s` from the first answer on; the manifest
    declares `budgets`.
    """

    make: object
    code: str
    says: str
    state: str = "rejected"
    offset: float = 0.0
    feature: float = 10.0
    feature_per_s: float = 0.0
    min_s: float = 600.0
    budgets: tuple = ()


def not_finite():
    """Answer NaN from a first feature of 10."""
    nodes = [
        helper.make_node("ReduceMax", ["X"], ["max"], keepdims=0),
        helper.make_node("Sub", ["limit", "max"], ["left"]),
        helper.make_node("Log", ["left"], ["log"]),
        helper.make_node("Mul", ["log", "nothing"], ["none"]),
    ]
    return hostile.plus("none", nodes, {"limit": np.float32(10), "nothing": np.float32(0)})


ROWS = {
    "weights by a hard link": Row(
        lambda: hostile.external(location="hardlink"), "model_refused", "outside its file"
    ),
    "escape codes in a name": Row(
        lambda: hostile.renamed(name="\x1b[2J"), "model_refused", "not printable"
    ),
    "thirty doubling functions": Row(hostile.doubling_functions, "model_refused", "functions"),
    "a broken tree": Row(
        lambda: hostile.trees(nodes_values=[0.5]), "load_failed", "nodes_falsenodeids"
    ),
    "load that takes hours": Row(hostile.folded_for_hours, "start_timeout", "not ready"),
    "a loop for ever in the golden rows": Row(
        lambda: hostile.loop(hostile.FOR_EVER, of="any"), "start_timeout", "not ready"
    ),
    "64 GiB at load": Row(hostile.bomb_at_load, "self_test_failed", "Failed to allocate"),
    "wrong golden answers": Row(hostile.fine, "self_test_failed", "off by up to", offset=1.0),
    "64 GiB for some requests": Row(
        hostile.bomb_at_run, "error_ratio", "requests failed", "rolled_back", offset=1.0
    ),
    "NaN for some requests": Row(not_finite, "non_finite", "NaN", "rolled_back"),
    "a loop for ever for some requests": Row(
        lambda: hostile.loop(hostile.FOR_EVER), "request_stuck", "sign of life", "rolled_back"
    ),
    "too slow for every request": Row(
        lambda: hostile.loop(30_000),
        "latency_budget",
        "10 ms allowed",
        "rolled_back",
        min_s=10.0,
        budgets=(("p99_ms", 10),),
    ),
    "more memory with each request": Row(
        # The arena doubles at 64 and at 128 units of 2 MiB: a step, and no steady growth.
        hostile.growing,
        "memory_growth",
        "memory grew by",
        "rolled_back",
        offset=1.0,
        feature=66.0,
        feature_per_s=3.5,
        budgets=(("memory_mb", 512),),
    ),
    "a crash for some requests": Row(
        lambda: hostile.crashing(always=False), "runtime_died", "SIGSEGV", "rolled_back"
    ),
}


@pytest.fixture(scope="module")
def bed(tmp_path_factory, bundles):
    try:
        kind = find_broker().kind
    except ConfigError as exc:
        absent(f"hostile models on real programs: {exc}")
    bed = Bed(tmp_path_factory.mktemp("hostile") / "bed", kind, bundles, is_split=True)
    bed.table = []
    try:
        bed.start()
        bed.add(DEVICE)
        device = bed.devices[DEVICE]
        device.end()
        path = bed.fleet_dir / f"{DEVICE}.toml"
        path.write_text(path.read_text().replace("[serve]", SERVE))
        device.start()
        bed.install("1.0.0")
        yield bed
    finally:
        bed.put_away()
        print("\n".join(["", *bed.table]))  # noqa: T201 - how each of them ended


def bundle(good, version, row):
    """Return a bundle that is whole, with this model in it."""
    with tarfile.open(good) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}
    golden = io.BytesIO()
    np.savez(
        golden, input_0=ONES, output_0=SUMS + row.offset, output_0_atol=1e-4, output_0_rtol=1e-3
    )
    files[MODEL], files[GOLDEN] = as_bytes(row.make()), golden.getvalue()
    # The version is in the golden rows' file, so that no two rows have the same content.
    files["note.txt"] = version.encode()
    manifest = json.loads(files[MANIFEST]) | {"version": version, "budgets": dict(row.budgets)}
    try:
        manifest["ops"] = sorted(map(str, scan_model(files[MODEL]).ops))
    except BundleError:
        manifest["ops"] = ["ai.onnx:Add"]
    manifest["files"].append({"path": "note.txt", "media_type": "text/plain"})
    for entry in manifest["files"]:
        data = files[entry["path"]]
        entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    files[MANIFEST] = json.dumps(manifest).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def raised(client, version, row):
    """Ask for more, the longer a version has answered; return whether it answers no more."""
    times = [answer.got_s for answer in client.answers if answer.version == version]
    if times:
        rise = min((time.monotonic() - times[0]) * row.feature_per_s, MOST - row.feature)
        client.feature = row.feature + rise
    return times and client.answers[-1].version not in (version, None)


@pytest.mark.parametrize("name", ROWS)
def test_a_hostile_model_never_stays(bed, bundles, tmp_path, name):
    row, device = ROWS[name], bed.devices[DEVICE]
    version = f"6.{list(ROWS).index(name)}.0"
    path = tmp_path / "hostile.bundle"
    path.write_bytes(bundle(bundles.path("1.0.0"), version, row))
    digest = bed.push_file(path)
    is_harmed = row.state == "rolled_back"
    device.client.feature = row.feature if is_harmed else 1.0
    began_s = time.monotonic()
    rollout = bed.roll_out(version, min_s=row.min_s)
    if row.feature_per_s:
        bed.until("it has gone back", lambda: raised(device.client, version, row))
    ended = bed.until_ended(rollout)
    assert (ended["state"], ended["counts"]) == ("halted", {row.state: 1}), ended
    member = bed.members(rollout)[DEVICE]
    assert member["code"] == row.code, member
    check_serving(bed, {DEVICE: "1.0.0"})

    failures = device.client.failures(began_s)
    broken = [answer for answer in failures if answer.status == 0]
    assert len(broken) <= is_harmed, "beyond what was in flight"
    assert is_harmed or failures == []
    (quarantined,) = [q for q in bed.device(DEVICE)["quarantined"] if q["manifest"] == digest]
    assert quarantined["code"] == row.code
    told = until("the event is stored", lambda: [
        event for event in bed.updates(DEVICE)
        if (event["manifest"], event["code"]) == (digest, row.code)
    ])  # fmt: skip
    assert row.says in told[0]["detail"]
    assert told[0]["detail"].isprintable()
    back_s = (told[-1]["at_unix_ms"] - told[0]["at_unix_ms"]) / 1000
    way = f"found out to fallback {back_s:4.1f} s" if is_harmed else "the release before served on"
    words = f"{len(failures)} of its own requests failed, {len(broken)} broken"
    bed.table.append(f"{name:<36} {row.code:<18} {way:<30} {words}; {told[0]['detail'][:60]}")


def test_after_all_of_that_the_fleet_works(bed):
    bed.devices[DEVICE].client.feature = 1.0
    bed.install("2.0.0")
    check_serving(bed, {DEVICE: "2.0.0"})
    for program in (*bed.devices.values(), bed.controller):
        assert program.is_alive, program.name
    assert bed.devices[DEVICE].log.read_text().count("--- ") == 2, "the agent was started again"
    check_records(bed)
    check_end(bed)
