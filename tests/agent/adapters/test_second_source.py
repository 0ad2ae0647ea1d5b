"""Content over HTTPS, from the controller's real listener and from hostile ones, when the broker does not give it."""

import contextlib
import logging
import socket
import ssl
import threading
import time
from dataclasses import replace

import pytest

from agent.adapters import door, https
from agent.adapters.identity import Identity
from agent.adapters.identity_files import place_text
from agent.adapters.second_source import SecondSource
from agent.core import fetch_plan
from tests.agent.adapters.fetching import Device, publish
from tests.fleet.site import Site
from tests.spine.processes import free_port
from wire.content import encode_chunk
from wire.errors import ModelfleetError, PeerError, TransferError
from wire.manifest import MODEL, digest_of

pytestmark = pytest.mark.usefixtures("impatient")

DEVICE = "cam-01"
PROMPT_S = 5.0
"""What is promised to be noticed at once is, by the busiest machine."""


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "controller")
    yield site
    site.stop()


@pytest.fixture
def identity(site, tmp_path):
    identity = Identity(tmp_path / "state")
    door.enrol(identity, DEVICE, site.url, site.token(), named_root=None)
    return identity


@pytest.fixture
def device(broker, tmp_path, identity):
    device = Device(broker, tmp_path / "state", lambda: SecondSource(identity))
    yield device
    device.stop()


def lead_to(identity, port):
    """Have a device look for its controller elsewhere."""
    place = replace(identity.place(), door_url=f"https://127.0.0.1:{port}")
    identity._place.write_text(place_text(place))


@contextlib.contextmanager
def listener(site, behave):
    """Give the port of somebody with the controller's own certificate, who behaves as he likes."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(site.folder.server.certificate, site.folder.server.key)
    over = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))

    def serve(raw):
        with raw, contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as tls:
            while not over.is_set() and tls.recv(65_536):
                if behave(tls, over):
                    return

    def accept():
        while True:
            try:
                raw, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(raw,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        over.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def told(caplog):
    return [r.getMessage() for r in caplog.records if "chunks come from" in r.getMessage()]


@pytest.mark.parametrize("is_linked", [True, False])
def test_without_the_broker_a_bundle_comes_from_the_controller(
    site, device, make_bundle, is_linked, caplog
):
    caplog.set_level(logging.INFO)
    bundle = make_bundle(b"".join(bytes([n]) * 30_000 for n in range(40)))
    site.release(bundle.chunks)
    if not is_linked:
        device.link.stop()
        device.fetcher.on_link(is_up=False)
    device.fetcher.fetch(bundle.assignment)
    assert device.result() == bundle.staged
    assert not device.delivered
    assert not device.link.filters
    (line,) = told(caplog)
    assert "from the controller now" in line
    assert ("it is silent" if is_linked else "there is no link") in line


def test_after_one_silence_nothing_more_is_asked_of_an_empty_broker(
    site, device, controller, make_bundle
):
    bundle = make_bundle(b"".join(bytes([n]) * 30_000 for n in range(40)))
    site.release(bundle.chunks)
    device.fetcher.fetch(bundle.assignment)
    assert device.result() == bundle.staged
    assert list(device.asked_again.queue) == [[bundle.assignment.ref.index]]


def test_without_the_controller_a_bundle_comes_from_the_broker(
    identity, device, controller, make_bundle, caplog
):
    lead_to(identity, free_port())
    bundle = make_bundle(b"".join(bytes([n]) * 30_000 for n in range(30)))
    first = {d: p for d, p in bundle.payloads().items() if len(bundle.chunks[d]) < 10_000}
    publish(controller, first)
    device.fetcher.fetch(bundle.assignment)
    until(lambda: len(told(caplog)) == 2)
    assert "cannot be reached" in told(caplog)[1]
    assert device.fetcher._sources.failures == 1, "of a window that fails, one counts"
    publish(controller, bundle.payloads())
    assert device.result() == bundle.staged
    assert not device.link.filters


def test_each_has_some(site, device, controller, make_bundle):
    bundle = make_bundle(b"".join(bytes([n]) * 30_000 for n in range(30)))
    digests = list(bundle.chunks)
    site.release({d: bundle.chunks[d] for d in digests[::2]})
    payloads = bundle.payloads()
    publish(controller, {d: payloads[d] for d in digests[1::2]})
    device.fetcher.fetch(bundle.assignment)
    assert device.result() == bundle.staged


def test_a_broker_that_lies_is_passed_over(site, device, controller, make_bundle, caplog):
    bundle = make_bundle(b"".join(bytes([n]) * 30_000 for n in range(30)))
    site.release(bundle.chunks)
    publish(controller, {digest: encode_chunk(b"a lie") for digest in bundle.chunks})
    begun_s = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch_plan, "SILENCE_S", 60.0)
        device.fetcher.fetch(bundle.assignment)
        assert device.result() == bundle.staged
    assert time.monotonic() - begun_s < 20, "it waited for the broker"
    refusals = [r.getMessage() for r in caplog.records if "refused a chunk" in r.getMessage()]
    assert len(refusals) == len(bundle.chunks)
    assert not device.link.filters


def test_a_controller_that_lies_is_passed_over(site, identity, device, controller, make_bundle):
    bundle = make_bundle()
    answer = encode_chunk(b"a lie")
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
    with listener(site, lambda tls, _over: tls.sendall(head + answer)) as port:
        lead_to(identity, port)
        device.fetcher.fetch(bundle.assignment)
        assert device.asked_again.get(timeout=120)
        assert device.asked_again.get(timeout=120), "the broker is asked again"
        publish(controller, bundle.payloads())
        assert device.result() == bundle.staged


def test_a_device_that_was_put_out_goes_on_with_the_broker(
    site, device, controller, make_bundle, caplog
):
    bundle = make_bundle()
    site.release(bundle.chunks)
    site.enrolment.revoke(DEVICE)
    device.fetcher.fetch(bundle.assignment)
    assert device.asked_again.get(timeout=120)
    assert device.asked_again.get(timeout=120)
    publish(controller, bundle.payloads())
    assert device.result() == bundle.staged
    assert "is revoked" in told(caplog)[1]


def test_a_restart_goes_on_where_it_was(site, identity, broker, make_bundle, tmp_path):
    bundle = make_bundle(b"".join(bytes([n]) * 30_000 for n in range(60)))
    site.release(bundle.chunks)
    asked = []

    class Noting(SecondSource):
        def chunk(self, digest):
            asked.append(digest)
            return super().chunk(digest)

    first = Device(broker, tmp_path / "state", lambda: Noting(identity))
    first.fetcher.fetch(bundle.assignment)
    until(lambda: len(asked) > 20)
    first.stop()
    here = {path.name for path in (tmp_path / "state/chunks").iterdir()}
    assert len(here) > 5
    asked.clear()
    second = Device(broker, tmp_path / "state", lambda: Noting(identity))
    second.fetcher.fetch(bundle.assignment)
    assert second.result() == bundle.staged
    second.stop()
    assert not here & set(asked), "nothing travels twice"


def drip(tls, over):
    tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    while not over.wait(0.2):
        tls.sendall(b"x")
    return True


def test_a_cancel_a_new_job_and_the_end_are_noticed_in_the_middle_of_a_pull(
    site, identity, device, controller, make_bundle
):
    never, good = make_bundle(b"never" * 10), make_bundle(version="3.0.0")
    good.version = "3.0.0"
    publish(controller, good.payloads())
    with listener(site, drip) as port:
        lead_to(identity, port)
        device.fetcher.fetch(never.assignment)
        device.asked_again.get(timeout=120)
        until(lambda: device.fetcher._sources.current is fetch_plan.Source.CONTROLLER)
        begun_s = time.monotonic()
        device.fetcher.fetch(good.assignment)
        assert device.result() == good.staged
        assert time.monotonic() - begun_s < PROMPT_S
        other = make_bundle(b"another" * 10)
        device.fetcher.fetch(other.assignment)
        until(lambda: device.fetcher._sources.current is fetch_plan.Source.CONTROLLER)
        begun_s = time.monotonic()
        device.fetcher.stop()
        assert time.monotonic() - begun_s < PROMPT_S
        assert not any(thread.is_alive() for thread in device.fetcher._pulls._threads)


def until(fact):
    deadline_s = time.monotonic() + 120
    while not fact():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def once(*pieces):
    def behave(tls, _over):
        for piece in pieces:
            tls.sendall(piece)
        return True  # and hang up

    return behave


def drip_head(tls, over):
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000:
        tls.sendall(bytes([byte]))
        if over.wait(0.05):
            return True
    return True


def endless(tls, over):
    tls.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not over.is_set():
        tls.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
    return True


OK = b"HTTP/1.1 200 OK\r\n"
HOSTILE = {
    "nothing": once(),
    "silence": lambda _tls, over: over.wait(),
    "head-that-drips": drip_head,
    "body-that-drips": drip,
    "no-http": once(b"\0" * 100),
    "long-line": once(b"HTTP/1.1 " + b"2" * 100_000),
    "a-thousand-headers": once(OK + b"a: b\r\n" * 1000 + b"\r\n"),
    "cut-in-the-head": once(OK + b"Content-Le"),
    "cut-in-the-body": once(OK + b"Content-Length: 100\r\n\r\nabc"),
    "too-long": once(OK + b"Content-Length: 70000\r\n\r\n" + b"x" * 70_000),
    "claims-a-terabyte": once(OK + b"Content-Length: 1000000000000\r\n\r\n" + b"x" * 70_000),
    "endless": endless,
    "chunks-that-are-none": once(OK + b"Transfer-Encoding: chunked\r\n\r\nzzzz\r\n"),
    "negative": once(OK + b"Content-Length: -5\r\n\r\nabc" + b"x" * 70_000),
    "away-to-another": once(b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
    "continue-for-ever": lambda tls, over: [tls.sendall(b"HTTP/1.1 100 Continue\r\n\r\n") for _ in range(100_000) if not over.is_set()],
    "refusal-that-is-none": once(b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\n[1]"),
    "busy": once(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("behave", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_listener_is_refused_in_time(site, identity, monkeypatch, behave):
    monkeypatch.setattr(https, "TIMEOUT_S", 1.0)
    with listener(site, behave) as port:
        lead_to(identity, port)
        source = SecondSource(identity)
        begun_s = time.monotonic()
        with pytest.raises((TransferError, PeerError)) as caught:
            source.chunk("0" * 64)
        assert time.monotonic() - begun_s < 1.0 + PROMPT_S
        assert caught.value.code in ("controller_unreachable", "not_a_controller")
        source.close()


def test_nobody_without_the_authority_is_asked_and_a_missing_identity_is_an_error_of_ours(
    site, identity, tmp_path
):
    other = Site(tmp_path / "other")
    try:
        lead_to(identity, int(other.url.rpartition(":")[2]))
        with pytest.raises(TransferError):
            SecondSource(identity).chunk("0" * 64)
    finally:
        other.stop()
    for path in identity.folder.iterdir():
        path.write_text("rot")
    with pytest.raises(ModelfleetError):
        SecondSource(identity).chunk("0" * 64)


def test_a_cut_holds_for_what_is_asked_after_it_until_a_new_beginning(site, identity):
    """The cut may come between the decision to ask and the asking: that must not wait for a dripping answer."""
    source = SecondSource(identity)
    for _ in range(2):  # without a connection, and with one that is kept
        source.cut()
        with pytest.raises(TransferError, match="it was cut"):
            source.chunk("0" * 64)
        source.begin()
        with pytest.raises(PeerError) as caught:
            source.chunk("0" * 64)
        assert caught.value.code == "unknown_chunk"


def test_a_connection_is_kept_and_made_again_when_it_was_ended(site, identity, make_bundle):
    bundle = make_bundle()
    site.release(bundle.chunks)
    source = SecondSource(identity)
    digest = digest_of(bundle.files[MODEL][:30_000])
    sockets = set()
    for _ in range(3):
        assert source.chunk(digest) == site.store.chunks.read(digest)
        sockets.add(source._connection._http.sock.getsockname())
    assert len(sockets) == 1
    source._connection._http.sock.shutdown(
        socket.SHUT_RDWR
    )  # as by a controller that ends what is idle
    assert source.chunk(digest) == site.store.chunks.read(digest)
    with pytest.raises(PeerError) as caught:
        source.chunk("0" * 64)
    assert caught.value.code == "unknown_chunk"
    before = source._connection._http
    assert source.chunk(digest)
    assert source._connection._http is before
    source.close()
