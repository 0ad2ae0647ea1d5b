"""The fetcher over an in-memory broker: what arrives, what does not, and what lies."""

import json
import queue
import time

import pytest

from agent.adapters import content_files
from agent.core.events import BundleStaged, FetchFailed
from tests.agent.adapters.fetching import Device, publish
from wire.content import encode_chunk
from wire.errors import BundleError
from wire.lifecycle import Code, Outcome
from wire.manifest import MODEL, digest_of

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def device(broker, tmp_path):
    device = Device(broker, tmp_path)
    yield device
    device.stop()


@pytest.mark.parametrize("levels", [1, 2])
def test_a_bundle_arrives_whole(device, controller, make_bundle, levels):
    bundle = make_bundle(levels=levels)
    publish(controller, bundle.payloads())
    device.fetcher.fetch(bundle.assignment)
    manifest = bundle.assignment.ref.manifest
    assert device.result() == bundle.staged
    _, files = device.store.load(manifest)
    assert files[MODEL].read_bytes() == bundle.files[MODEL]
    assert sorted(device.delivered) == sorted(bundle.chunks), "each chunk came once"
    assert not device.link.filters, "no subscription is left"


def test_chunks_published_later_are_asked_for_by_name_and_arrive(device, controller, make_bundle):
    bundle = make_bundle()
    payloads = bundle.payloads()
    late = digest_of(bundle.files[MODEL][:30_000])
    publish(controller, {d: p for d, p in payloads.items() if d != late})
    device.fetcher.fetch(bundle.assignment)
    assert list(device.asked_again.get(timeout=120)) == [late]
    publish(controller, {late: payloads[late]})
    assert device.result() == bundle.staged


def test_a_restart_goes_on_where_it_was(broker, controller, make_bundle, tmp_path):
    bundle = make_bundle()
    payloads = bundle.payloads()
    last = digest_of(bundle.files[MODEL][-20_000:])
    publish(controller, {d: p for d, p in payloads.items() if d != last})
    first = Device(broker, tmp_path)
    first.fetcher.fetch(bundle.assignment)
    first.asked_again.get(timeout=120)
    first.stop()
    publish(controller, {last: payloads[last]})
    second = Device(broker, tmp_path)
    second.fetcher.fetch(bundle.assignment)
    assert second.result() == bundle.staged
    assert last in second.delivered
    assert not set(second.delivered) & set(first.delivered), "nothing travels twice"
    second.stop()


def test_a_cut_link_goes_on_after_it_is_back(broker, device, controller, make_bundle):
    bundle = make_bundle()
    payloads = bundle.payloads()
    device.fetcher.fetch(bundle.assignment)
    device.asked_again.get(timeout=120)
    broker.cut("cam-01")
    publish(controller, payloads)
    device.link.connect()
    assert device.result() == bundle.staged


def test_equal_chunks_of_an_older_version_do_not_travel_again(device, controller, make_bundle):
    old = make_bundle(b"".join(bytes([n]) * 30_000 for n in range(6)))
    new = make_bundle(
        b"".join(bytes([n]) * 30_000 for n in range(5)) + b"new layer", version="2.0.0"
    )
    new.version = "2.0.0"
    publish(controller, {**old.payloads(), **new.payloads()})
    device.fetcher.fetch(old.assignment)
    assert isinstance(device.result(), BundleStaged)
    device.delivered.clear()
    device.fetcher.fetch(new.assignment)
    assert device.result() == new.staged
    assert sorted(device.delivered) == sorted(
        digest_of(data) for data in (new.index, new.manifest, b"new layer")
    )


def test_a_lying_chunk_is_refused_and_the_true_one_taken(device, controller, make_bundle):
    bundle = make_bundle()
    payloads = bundle.payloads()
    lie = digest_of(bundle.files[MODEL][:30_000])
    publish(controller, {**payloads, lie: encode_chunk(b"something else")})
    device.fetcher.fetch(bundle.assignment)
    assert lie in device.asked_again.get(timeout=120)
    publish(controller, {lie: payloads[lie]})
    assert device.result() == bundle.staged


@pytest.mark.parametrize("what", ["other file", "wrong size", "other manifest", "no index"])
def test_an_index_that_leads_elsewhere_is_rejected(device, controller, make_bundle, what):
    bundle = make_bundle()
    index = json.loads(bundle.index)
    if what == "other file":
        other = b"x" * len(bundle.files["golden.npz"])
        bundle.chunks[digest_of(other)] = other
        index["files"]["golden.npz"] = [[digest_of(other), len(other)]]
    elif what == "wrong size":
        index["files"][MODEL].pop()
    elif what == "other manifest":
        index["files"]["manifest.json"] = index["files"]["baseline.json"]
    else:
        index = {"v": 1}
    bundle.index = json.dumps(index).encode()
    bundle.chunks[digest_of(bundle.index)] = bundle.index
    publish(controller, bundle.payloads())
    device.fetcher.fetch(bundle.assignment)
    result = device.result()
    assert isinstance(result, FetchFailed)
    assert result.outcome is Outcome.REJECTED
    assert result.code in (Code.DIGEST_MISMATCH, Code.INDEX_INVALID)
    assert not device.store.is_whole(bundle.assignment.ref.manifest)


def test_a_bundle_of_another_model_is_rejected(device, controller, make_bundle):
    bundle = make_bundle(version="9.9.9")
    publish(controller, bundle.payloads())
    device.fetcher.fetch(bundle.assignment)
    result = device.result()
    assert result.code == Code.WRONG_MODEL
    assert "digits:9.9.9" in result.detail


def test_a_bundle_that_cannot_run_here_is_rejected(device, controller, make_bundle):
    bundle = make_bundle()
    device.refuse = BundleError("needs a newer runtime", code=Code.INCOMPATIBLE)
    publish(controller, bundle.payloads())
    device.fetcher.fetch(bundle.assignment)
    assert device.result().code == Code.INCOMPATIBLE


def test_a_full_disk_fails_and_says_how_much_is_missing(
    device, controller, make_bundle, monkeypatch
):
    monkeypatch.setattr(content_files, "DISK_FLOOR_BYTES", 2**60)
    bundle = make_bundle()
    publish(controller, bundle.payloads())
    device.fetcher.fetch(bundle.assignment)
    result = device.result()
    assert (result.outcome, result.code) == (Outcome.FAILED, Code.DISK_FULL)


def test_a_newer_job_replaces_the_one_under_way(device, controller, make_bundle):
    never = make_bundle(b"never" * 10)
    bundle = make_bundle(version="3.0.0")
    bundle.version = "3.0.0"
    device.fetcher.fetch(never.assignment)
    device.asked_again.get(timeout=120)
    publish(controller, bundle.payloads())
    device.fetcher.fetch(bundle.assignment)
    assert device.result() == bundle.staged
    deadline = time.monotonic() + 5
    while device.link.filters and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not device.link.filters


def test_a_bundle_that_is_fetched_later_makes_way_for_one_that_is_due(
    device, controller, make_bundle
):
    bundle = make_bundle()
    publish(controller, bundle.payloads())
    device.fetcher.fetch(bundle.assignment, 3600.0)
    with pytest.raises(queue.Empty):
        device.events.get(timeout=1.5)
    device.fetcher.fetch(bundle.assignment)
    assert device.result() == bundle.staged


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_damaged_content_is_fetched_again(device, controller, make_bundle, is_cancelled):
    bundle = make_bundle()
    publish(controller, bundle.payloads())
    assignment = bundle.assignment  # one and the same, as the desired state has it
    device.fetcher.fetch(assignment)
    device.result()
    path = device.store.content / digest_of(bundle.files[MODEL])
    path.write_bytes(b"rot" + path.read_bytes()[3:])
    if is_cancelled:
        device.fetcher.cancel()
    device.fetcher.fetch(assignment)
    assert device.result() == bundle.staged
    device.store.load(assignment.ref.manifest)
