"""Bundles and chunks that are cut, foreign, changed, lying or bombs; orders that lead to none."""

import gzip
import hashlib
import http.client
import io
import json
import signal
import tarfile
import zipfile

import pytest
import zstandard

from tests.spine.models import NAME, answering
from tests.spine.packing import MANIFEST, packed, signed, unpacked, without
from tests.spine.soundness import (
    DEVICE,
    Refusal,
    Stranger,
    api,
    check_complaint,
    check_refusal,
    check_sound,
    chunk_topic,
    chunks_of,
    directed,
    release,
    run,
    situation,
    sound_bed,
)
from wire import topics

pytestmark = [pytest.mark.broker, pytest.mark.slow]

MIB = 2**20


@pytest.fixture(scope="module")
def bed(tmp_path_factory, bundles):
    with sound_bed(tmp_path_factory.mktemp("content"), bundles) as bed:
        yield bed


@pytest.fixture(scope="module")
def stranger(bed):
    with Stranger(bed) as stranger:
        yield stranger


@pytest.fixture(scope="module")
def files(bundles):
    """What a good bundle holds, by name."""
    return unpacked(bundles.path("2.0.0"))


def with_link(files):
    out = io.BytesIO(packed(files))
    with tarfile.open(fileobj=out, mode="a:") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return out.getvalue()


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def flipped(data):
    return bytes([data[0] ^ 1]) + data[1:]


UNREADABLE, INCOMPLETE = "bundle_unreadable", "bundle_incomplete"
UPLOADS = {
    "empty": (lambda _: b"", "bundle_empty", "no body"),
    "cut-in-the-head": (lambda f: packed(f)[:100], UNREADABLE, "truncated"),
    "cut-in-a-file": (
        lambda f: packed(f)[: packed(f).index(f["model.onnx"]) + 9],
        UNREADABLE,
        "end of data",
    ),
    "text": (lambda _: b"hello" * 500, UNREADABLE, "header"),
    "zeros": (lambda _: bytes(10_240), UNREADABLE, "it is empty"),
    "a-model": (lambda f: f["model.onnx"], UNREADABLE, "header"),
    "zip": (zipped, UNREADABLE, "header"),
    "gzip": (lambda f: gzip.compress(packed(f)), UNREADABLE, "header"),
    "gzip-bomb": (lambda _: gzip.compress(bytes(256 * MIB), 1), UNREADABLE, "header"),
    "no-manifest": (lambda f: packed(without(f, MANIFEST)), INCOMPLETE, MANIFEST),
    "no-golden-rows": (lambda f: packed(without(f, "golden.npz")), INCOMPLETE, "golden.npz"),
    "changed-model": (
        lambda f: packed(f | {"model.onnx": flipped(f["model.onnx"])}),
        "digest_mismatch",
        "model.onnx",
    ),
    "longer-model": (
        lambda f: packed(f | {"model.onnx": f["model.onnx"] + b"x"}),
        "digest_mismatch",
        "model.onnx",
    ),
    "one-more-file": (lambda f: packed(f, ("run.sh", b"x")), UNREADABLE, "run.sh"),
    "a-file-twice": (lambda f: packed(f, (MANIFEST, f[MANIFEST])), UNREADABLE, "twice"),
    "a-way-out": (lambda f: packed(f, ("../x", b"x")), UNREADABLE, "'../x'"),
    "a-root": (lambda f: packed(f, ("/etc/x", b"x")), UNREADABLE, "'/etc/x'"),
    "a-link": (with_link, UNREADABLE, "'link'"),
    "manifest-cut": (
        lambda f: packed(f | {MANIFEST: f[MANIFEST][:-9]}),
        "manifest_invalid",
        "not JSON",
    ),
    "manifest-twice-a-key": (
        lambda f: packed(f | {MANIFEST: b'{"v":1,' + f[MANIFEST][1:]}),
        "manifest_invalid",
        "same key twice",
    ),
    "manifest-nan": (
        lambda f: packed(f | {MANIFEST: f[MANIFEST].replace(b'"v":1', b'"v":NaN')}),
        "manifest_invalid",
        "NaN",
    ),
    "manifest-deep": (
        lambda f: packed(f | {MANIFEST: b"[" * 100_000}),
        "manifest_invalid",
        "nested too deeply",
    ),
    "manifest-huge": (
        lambda f: packed(f | {MANIFEST: b" " * 2 * MIB + f[MANIFEST]}),
        "manifest_invalid",
        "over the cap",
    ),
    "newer-format": (lambda f: packed(signed(f, v=2)), "manifest_invalid", "v: "),
    "odd-name": (lambda f: packed(signed(f, name="../x")), "manifest_invalid", "name"),
}


@pytest.mark.parametrize(("make", "code", "says"), UPLOADS.values(), ids=UPLOADS)
def test_what_is_no_bundle_is_refused_and_leaves_nothing(bed, files, make, code, says):
    before, chunks = situation(bed), stored_chunks(bed)
    answer = api(bed).post("/v1/bundles", content=make(files))
    check_refusal(answer, Refusal(422, code, says))
    assert answer.json()["hint"]
    assert (situation(bed), stored_chunks(bed)) == (before, chunks)
    assert not list((bed.fleet_dir / "store" / "uploads").iterdir())


def push(bed, folder, files):
    """Push a bundle of these files, signed as any other."""
    path = folder / "pushed.bundle"
    path.write_bytes(packed(files))
    bed.push_file(path)


def stored_chunks(bed):
    return sorted(path.name for path in (bed.fleet_dir / "store" / "chunks").glob("*/*"))


def test_an_upload_that_says_it_is_too_large_is_not_even_begun(bed):
    connection = http.client.HTTPConnection(api(bed).base_url.netloc.decode(), timeout=120)
    connection.putrequest("POST", "/v1/bundles")
    connection.putheader("Content-Length", str(2**40))
    connection.putheader("Authorization", api(bed).headers["authorization"])
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (413, "bundle_too_large")
    connection.close()


def test_a_version_never_changes_its_content(bed, files, bundles, tmp_path):
    before = situation(bed)
    other = signed(without(files), version="1.0.0", lineage={"code_commit": "another"})
    answer = api(bed).post("/v1/bundles", content=packed(other))
    check_refusal(answer, Refusal(409, "version_exists", f"{NAME}:1.0.0"))
    digest = hashlib.sha256(other[MANIFEST]).hexdigest()
    assert digest[:12] in answer.json()["message"]
    path = tmp_path / "other.bundle"
    path.write_bytes(packed(other))
    ended = run(bed.fleet_dir, "fleet", "push", str(path))
    check_complaint(ended, str(path), "other content", "--version")
    assert situation(bed) == before


FILES = {
    "missing": (None, "No such file"),
    "folder": ("folder", "is no file"),
    "empty": (b"", "empty file"),
    "cut": (b"manifest.json", "truncated header"),
}


@pytest.mark.parametrize(("content", "says"), FILES.values(), ids=FILES)
def test_the_command_names_the_file_that_it_cannot_push(bed, tmp_path, content, says):
    path = tmp_path / "x.bundle"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    check_complaint(run(bed.fleet_dir, "fleet", "push", str(path)), str(path), says)


def test_chunks_that_lie_are_refused_and_the_right_ones_are_got(bed, stranger, files, tmp_path):
    """The broker retains other bytes under the names of chunks, each a lie of another kind."""
    version = "2.0.1"
    rich = without(files) | {f"more-{n}.bin": f"file {n}".encode() for n in range(6)}
    listed = json.loads(files[MANIFEST])["files"]
    listed += [{"path": path, "media_type": "x/y"} for path in rich if path.startswith("more-")]
    push(bed, tmp_path, signed(rich, version=version, files=listed))
    here = set(chunks_of(bed, stranger, "1.0.0"))  # these the device need not fetch
    names = [name for name in chunks_of(bed, stranger, version) if name not in here]
    truth = {name: stranger.retained(chunk_topic(name)) for name in names}
    pack = zstandard.ZstdCompressor().compress
    small = zstandard.ZstdCompressionParameters(window_log=17)
    slow_bomb = zstandard.ZstdCompressor(compression_params=small).compress(bytes(512 * MIB))
    bomb = pack(bytes(512 * MIB))
    assert max(len(bomb), len(slow_bomb)) < 64 * 1024
    kinds = [
        (truth[names[1]], "is not what it claims"),  # in place of the index
        (truth[names[0]], "is not what it claims"),
        (bomb, "too much memory"),
        (slow_bomb, "unpacks beyond the cap"),
        (truth[names[4]][:-3], "is not what it claims"),
        (b"not zstd at all", "zstd"),
        (b"x" * 100_000, "payload is over the cap"),
        (pack(b"other"), "is not what it claims"),
    ]
    lies = {name: kinds[number % len(kinds)] for number, name in enumerate(names)}
    assert len(lies) >= len(kinds)
    for name, (lie, _) in lies.items():
        stranger.publish(chunk_topic(name), lie, retain=True)
        assert stranger.retained(chunk_topic(name)) == lie

    ended = bed.until_ended(bed.roll_out(version))
    assert ended["counts"] == {"confirmed": 1}, ended
    assert bed.devices[DEVICE].ask().version == version
    log = bed.devices[DEVICE].log.read_text().splitlines()
    for name, (_, says) in lies.items():
        told = [line for line in log if f"refused a chunk: chunk {name[:12]}" in line]
        assert says in told[0], (name, told)
    asked = {d for one in bed.observer.of("event/chunks_missing") for d in one.body["chunks"]}
    assert asked == set(lies), "the device asks for what it refused, and for nothing else"
    for name in names:
        assert stranger.retained(chunk_topic(name)) == truth[name], "the controller put it right"


ORDERS = {
    "another-manifest": ({"manifest": "f" * 64}, "trust_mismatch", "another manifest"),
    "another-version": ({"version": "9.9.9"}, "not_signed", f"{NAME}:9.9.9"),
    "no-index": ({"index": "the model"}, "index_invalid", "content index"),
}


@pytest.mark.parametrize(("change", "code", "says"), ORDERS.values(), ids=ORDERS)
def test_an_order_that_does_not_lead_to_what_it_says_is_rejected(bed, stranger, change, code, says):
    """By a stranger, with a generation of its own; the controller then takes the device back."""
    bed.push("3.0.0")
    serving = bed.model(DEVICE)["active_version"]
    wanted = release(bed, "3.0.0")
    if "index" in change:
        change = {"index": chunks_of(bed, stranger, "3.0.0")[2]}
    model = {key: wanted[key] for key in ("version", "manifest", "index")} | {"name": NAME} | change
    generation = bed.device(DEVICE)["reported_generation"] + 1
    order = {"v": 1, "device": DEVICE, "generation": generation, "models": [model]}
    known = len(bed.observer.seen)

    def rejected():
        fresh = [one.body for one in bed.observer.seen[known:] if one.channel == "event/update"]
        return [body for body in fresh if body["code"] == code]

    # A controller that is awake may take the device back before it has found out.
    bed.controller.send(signal.SIGSTOP)
    try:
        stranger.publish(topics.Desired(DEVICE).text, directed(bed, order))
        (event, *_) = bed.until("the device rejects it", rejected)
    finally:
        bed.controller.send(signal.SIGCONT)
    assert (event["from"], event["to"], event["manifest"]) == (
        "fetching",
        "idle",
        model["manifest"],
    )
    assert says in event["detail"]

    def is_back():
        device = bed.device(DEVICE)
        return device["reported_generation"] == device["desired_generation"] > generation

    bed.until("the controller has it back", is_back)
    assert bed.model(DEVICE)["active_version"] == serving
    assert bed.devices[DEVICE].ask().version == serving


def test_an_order_that_leads_nowhere_waits_until_the_controller_knows_better(bed, stranger):
    serving = bed.model(DEVICE)["active_version"]
    generation = bed.device(DEVICE)["reported_generation"] + 1
    nowhere = "e" * 64
    model = {"name": NAME, "version": "4.0.0", "manifest": nowhere, "index": nowhere}
    order = {"v": 1, "device": DEVICE, "generation": generation, "models": [model]}
    stranger.publish(topics.Desired(DEVICE).text, directed(bed, order))

    def is_back():
        device = bed.device(DEVICE)
        return device["reported_generation"] == device["desired_generation"] > generation

    bed.until("the controller has it back", is_back)
    bed.until("nothing is under way", lambda: bed.model(DEVICE)["state"] == "idle")
    assert bed.devices[DEVICE].ask().version == serving


def test_an_order_of_before_is_not_obeyed_again(bed, stranger):
    """Signed, once obeyed perhaps, and replayed by whoever has kept it."""
    serving = bed.model(DEVICE)["active_version"]
    assert bed.device(DEVICE)["reported_generation"] > 1
    stranger.publish(
        topics.Desired(DEVICE).text, directed(bed, {"v": 1, "device": DEVICE, "generation": 1})
    )

    def alarms():
        rows = bed.get(f"/v1/devices/{DEVICE}/records?channel=event/alarm&limit=1000")
        return [row["body"] for row in rows if row["body"]["code"] == "desired_replayed"]

    (alarm,) = bed.until("the agent tells of it", alarms)
    assert "comes after generation" in alarm["detail"]
    assert bed.model(DEVICE)["active_version"] == serving
    assert bed.devices[DEVICE].ask().version == serving


def test_a_bundle_whose_model_was_exchanged_fails_its_own_golden_rows(bed, files, tmp_path):
    """Every digest agrees: only trying it on the device tells."""
    other = files | {"model.onnx": answering(3.0).SerializeToString()}
    push(bed, tmp_path, signed(other, version="2.1.0"))
    serving = bed.model(DEVICE)["active_version"]
    ended = bed.until_ended(bed.roll_out("2.1.0"))
    assert (ended["state"], ended["counts"]) == ("halted", {"rejected": 1}), ended
    assert "self_test_failed" in ended["reason"]
    assert bed.devices[DEVICE].ask().version == serving


def test_after_all_of_that_the_fleet_works(bed):
    check_sound(bed, "5.0.0")
