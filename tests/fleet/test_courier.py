"""Deliveries to real HTTP servers: dead, slow, hostile, forgetful ones among them."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.alerts import courier
from fleet.alerts.courier import Courier, backoff_s, post_all
from fleet.alerts.settings import Receiver
from fleet.pki.authority import CertificateAuthority
from fleet.pki.folder import PkiFolder
from fleet.store.store import Store
from tests.fleet.receivers import TAKEN, Answer, Hook
from tests.fleet.secured import until

BODY = json.dumps({"status": "firing"})


def now_unix_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "fleet.db", tmp_path)
    yield store
    store.close()


def add(store: Store, *receivers: str, body: str = BODY, at_unix_ms: int | None = None) -> None:
    with store.write() as tx:
        tx.deliveries.add([(name, body) for name in receivers], at_unix_ms or now_unix_ms())


def waiting(store: Store, receiver: str) -> int:
    with store.read() as tx:
        return len(tx.deliveries.waiting(receiver))


@contextmanager
def running(
    store: Store, *receivers: Receiver, timeout_s: float = courier.TIMEOUT_S
) -> Iterator[Courier]:
    made = Courier(store, receivers, now_unix_ms, timeout_s=timeout_s, retry_first_s=0.01)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def numbered(store: Store, receiver: str, count: int) -> None:
    for number in range(count):
        add(store, receiver, body=json.dumps({"n": number}))


def test_what_is_stored_is_brought_once_in_order_with_its_token(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "token").write_text("s3cret\n")
    with Hook() as hook:
        numbered(store, "x", 3)
        with running(store, Receiver("x", hook.url, tmp_path / "token")) as line:
            hook.wait_for(3)
            until(lambda: waiting(store, "x") == 0, "all are noted")
            numbered(store, "x", 1)
            line.wake()
            bodies = hook.wait_for(4)
        assert [body["n"] for body in bodies] == [0, 1, 2, 0]
        headers = [headers for headers, _ in hook.requests]
    assert {h["authorization"] for h in headers} == {"Bearer s3cret"}
    assert "secret=1" not in caplog.text  # the URL's own
    assert {h["content-type"] for h in headers} == {"application/json"}
    assert len({h["idempotency-key"] for h in headers}) == 4


@pytest.mark.parametrize("status", [500, 503, 429, 401, 404, 302])
def test_what_is_not_taken_is_sent_again_before_what_is_newer(store: Store, status: int) -> None:
    with Hook() as elsewhere:

        def answer(number: int) -> Answer:
            return TAKEN if number > 3 else (status, {"location": elsewhere.url}, b"no")

        with Hook(answer) as hook, running(store, Receiver("x", hook.url)) as line:
            numbered(store, "x", 2)
            line.wake()
            bodies = hook.wait_for(5)
            until(lambda: waiting(store, "x") == 0, "all are noted")
        assert [body["n"] for body in bodies] == [0, 0, 0, 0, 1]
        keys = [headers["idempotency-key"] for headers, _ in hook.requests]
        assert len(set(keys[:4])) == 1
        assert elsewhere.requests == []


def test_what_a_receiver_refuses_for_good_holds_nothing_up(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.ERROR),
        Hook(lambda n: (400, {}, b"bad field\x1b[31m") if n == 1 else TAKEN) as hook,
        running(store, Receiver("x", hook.url)) as line,
    ):
        numbered(store, "x", 2)
        line.wake()
        assert [body["n"] for body in hook.wait_for(2)] == [0, 1]
    assert "given up for x: 400 Bad Request bad field [31m" in caplog.text


def test_a_day_is_enough(store: Store) -> None:
    add(store, "x", at_unix_ms=now_unix_ms() - courier.MAX_AGE_MS - 1)
    add(store, "x", body=json.dumps({"n": 1}))
    with (
        Hook(lambda n: (503, {}, b"") if n == 1 else TAKEN) as hook,
        running(store, Receiver("x", hook.url)),
    ):
        assert hook.wait_for(2)[1] == {"n": 1}


@contextmanager
def raw(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does as it likes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=guarded, args=[connection], daemon=True).start()

    def guarded(connection: socket.socket) -> None:
        try:
            serve(connection)
        except OSError:
            pass
        finally:
            connection.close()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def says_nothing(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


def drips(connection: socket.socket) -> None:
    """A header without end, a byte at a time: each read is in time, the whole never."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    tick = threading.Event()
    while not tick.wait(0.05):
        connection.sendall(b"x")


def floods(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 500 No\r\ncontent-length: 9999999999\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65_536)


def babbles(connection: socket.socket) -> None:
    connection.sendall(b"\x00\xff garbage\r\n\r\n")


@pytest.mark.parametrize("serve", [says_nothing, drips, floods, babbles])
def test_a_bad_receiver_holds_up_nobody_but_itself(
    store: Store, serve: Callable[[socket.socket], None]
) -> None:
    with raw(serve) as url, Hook() as hook:
        numbered(store, "bad", 1)
        numbered(store, "good", 3)
        receivers = Receiver("bad", url), Receiver("good", hook.url)
        with running(store, *receivers, timeout_s=2.0):
            hook.wait_for(3)

            def attempts() -> int:
                with store.read() as tx:
                    first = tx.deliveries.first("bad")
                assert first is not None
                return first.attempts

            until(lambda: attempts() >= 2, "the bad one was tried twice")


def test_what_was_not_taken_waits_for_the_next_start(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/hook?secret=1"
    numbered(store, "x", 2)
    with running(store, Receiver("x", url)):
        until(lambda: _attempts(store) >= 1, "it was tried")
    with Hook(port=port) as hook, running(store, Receiver("x", hook.url)):
        assert [body["n"] for body in hook.wait_for(2)] == [0, 1]


def _attempts(store: Store) -> int:
    with store.read() as tx:
        first = tx.deliveries.first("x")
    return first.attempts if first is not None else -1


def test_a_certificate_of_nobody_we_trust_is_refused(tmp_path: Path) -> None:
    pki = PkiFolder(tmp_path / "pki")
    CertificateAuthority.found(pki, ["127.0.0.1"], now_unix_ms())
    with Hook(tls=(pki.server.certificate, pki.server.key)) as hook:
        trusting = Receiver("ca", hook.url, ca_path=pki.ca.certificate)
        strange = Receiver("none", hook.url)
        lost = Receiver("lost", hook.url, ca_path=tmp_path / "gone.pem")
        bare = Receiver("bare", hook.url, token_path=tmp_path / "gone", ca_path=trusting.ca_path)
        said = post_all(
            [trusting, strange, lost, bare],
            dict.fromkeys(("ca", "none", "lost", "bare"), BODY),
            "k",
        )
        assert len(hook.requests) == 1
    assert said["ca"].is_taken
    assert said["ca"].text == "200 OK thanks"
    assert "CERTIFICATE_VERIFY_FAILED" in said["none"].text
    assert "gone.pem" in said["lost"].text
    assert "cannot read the token" in said["bare"].text
    assert not any(said[name].is_taken for name in ("none", "lost", "bare"))


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_the_wait_grows_to_its_cap_and_is_anything_below(attempts: int, chance: float) -> None:
    assert 0 <= backoff_s(attempts, chance) < courier.RETRY_CAP_S
