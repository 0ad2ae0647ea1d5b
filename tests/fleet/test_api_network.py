"""The API at its socket: TLS, deadlines, limits and headers, by the real server."""

from __future__ import annotations

import http.client
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.testclient import TestClient

from fleet.api import gatekeeper, patience
from fleet.api.app import build_app
from fleet.api.patience import MAX_HEADER_BYTES, PatientProtocol
from fleet.pki.authority import CertificateAuthority
from fleet.pki.folder import PkiFolder
from fleet.ratelimit import Buckets
from fleet.service import unix_ms
from fleet.settings import parse_settings
from tests.fleet.peers import Fleet
from wire.errors import ConfigError

DEADLINE_S = 60.0
FLEET = [sys.executable, "-m", "fleet"]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    fleet.settle()
    yield fleet
    fleet.controller.stop()
    fleet.store.close()


@contextmanager
def served(fleet: Fleet) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        build_app(fleet.controller),
        http=PatientProtocol,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        log_config=None,
        lifespan="off",
        ws="none",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def dripping(port: int, first: bytes, rest: Callable[[int], bytes]) -> bytes:
    """Send `first`, then a piece now and then; return what came back until the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        connection.sendall(first)
        connection.settimeout(0.05)
        said, deadline_s = b"", time.monotonic() + DEADLINE_S
        for number in range(100_000):
            assert time.monotonic() < deadline_s, said
            try:
                piece = connection.recv(65_536)
                if not piece:
                    return said
                said += piece
            except TimeoutError:
                pass
            except ConnectionError:
                return said
            try:
                connection.sendall(rest(number))
            except OSError:
                continue
    raise AssertionError("it never ended")


def test_headers_that_never_end_are_cut_off_and_others_are_served(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "HEADERS_S", 1.0)
    with served(fleet) as port:
        drip = dripping(
            port, b"GET /v1/health HTTP/1.1\r\nHost: x\r\n", lambda n: b"a%d: b\r\n" % n
        )
        assert drip == b""
        assert dripping(port, b"", silence) == b""
        # The second request of a connection has the same deadline, and it served the first.
        whole = b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n"
        twice = dripping(port, whole + b"GET /v1/he", lambda _n: b"a")
        assert twice.count(b"HTTP/1.1 200") == 1
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        for _ in range(3):  # a pause between requests is none within one
            connection.request("GET", "/v1/health")
            assert connection.getresponse().read() == b'{"state":"alive"}'
            time.sleep(0.6)
        connection.close()


def silence(_number: int) -> bytes:
    return b""


def spaces(_number: int) -> bytes:
    return b" "


def test_a_body_that_comes_too_slowly_is_answered_408(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gatekeeper, "PIECE_S", 1.0)
    monkeypatch.setattr(gatekeeper, "BODY_S", 3.0)
    monkeypatch.setattr(gatekeeper, "UPLOAD_S", 3.0)
    bearer = fleet.bearer()["authorization"]
    with served(fleet) as port:
        for path, pause in (("/v1/devices", True), ("/v1/devices", False), ("/v1/bundles", False)):
            head = (
                f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nConnection: close\r\n"
                "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n{"
            )
            said = dripping(port, head.encode(), silence if pause else spaces)
            assert b"HTTP/1.1 408" in said, said
            assert b"body_too_slow" in said
    assert not list((fleet.folder / "uploads").iterdir())


@pytest.mark.parametrize("path", ["/v1/devices", "/v1/nothing"])
def test_who_was_answered_before_the_end_of_the_body_is_cut_off_too(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(patience, "HEADERS_S", 1.0)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n".encode()
    with served(fleet) as port:
        for drip in (spaces, first_alone):
            said = dripping(port, head, drip)
            assert said.startswith(b"HTTP/1.1 40")
            assert said.count(b"HTTP/1.1") == 1
        # Who brings the rest in time goes on with the same connection.
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as sock:
            sock.sendall(head)
            assert sock.recv(65536).startswith(b"HTTP/1.1 40")
            sock.sendall(b" " * 100_000 + b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in sock.recv(65536)


def first_alone(number: int) -> bytes:
    return b"" if number else b" "


def test_one_token_cannot_ask_without_end_and_another_is_not_held_up(fleet: Fleet) -> None:
    api = TestClient(build_app(fleet.controller, rate_per_s=2))
    ann, bob = fleet.bearer("ann"), fleet.bearer("bob")
    answers = [api.get("/v1/models", headers=ann) for _ in range(60)]
    limited = [answer for answer in answers if answer.status_code == 429]
    assert len(limited) >= 20
    assert limited[0].json()["code"] == "too_many_requests"
    assert limited[0].headers["retry-after"] == "1"
    assert api.get("/v1/models", headers=bob).status_code == 200


def test_a_bucket_fills_again_and_no_fuller_than_it_was() -> None:
    buckets = Buckets(2.0, 4)
    assert [buckets.takes("a", 0.0) for _ in range(5)] == [True] * 4 + [False]
    assert [buckets.takes("a", 1.0) for _ in range(3)] == [True, True, False]
    assert [buckets.takes("a", 1000.0) for _ in range(5)] == [True] * 4 + [False]


@pytest.mark.parametrize("path", ["/v1/health", "/v1/models", "/v1/nothing", "/openapi.json"])
def test_every_answer_has_the_headers(fleet: Fleet, path: str) -> None:
    bearer = fleet.bearer()
    plain = TestClient(build_app(fleet.controller)).get(path, headers=bearer).headers
    for name, value in gatekeeper.HEADERS.items():
        assert plain[name] == value
    assert "strict-transport-security" not in plain
    client = TestClient(build_app(fleet.controller), base_url="https://fleet.example")
    assert client.get(path, headers=bearer).headers["strict-transport-security"]
    own = {"origin": "https://fleet.example"}
    assert client.get(path, headers=bearer | own).status_code in (200, 404)
    for origin in ("http://fleet.example", "https://fleet.example:1", "null", "http://[", "x"):
        assert client.get(path, headers=bearer | {"origin": origin}).status_code == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "[::]", "fleet.example"])  # noqa: S104
def test_the_network_takes_tls(tmp_path: Path, host: str) -> None:
    plain = f'[api]\nlisten = "{host}:8700"\n'
    path = tmp_path / "fleet.toml"
    with pytest.raises(ConfigError, match="no TLS") as caught:
        parse_settings(plain, path).check_loopback()
    assert caught.value.code == "not_loopback"
    with pytest.raises(ConfigError, match="go together"):
        parse_settings(plain + 'certificate = "a.pem"\n', path)
    settings = parse_settings(plain + 'certificate = "a.pem"\nkey = "a.key"\n', path)
    settings.check_loopback()
    assert settings.api_url == f"https://{host}:8700"
    assert settings.tls() == (tmp_path / "a.pem", tmp_path / "a.key")


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FLEET, *args], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_cli_and_the_controller_speak_tls(tmp_path: Path, free_tcp_port: int) -> None:
    broker = "mqtt://127.0.0.1:1"  # nobody there: the API works without
    made = run(tmp_path, "init", ".", "--listen", f"127.0.0.1:{free_tcp_port}", "--broker", broker)
    assert made.returncode == 0, made.stderr
    pki = PkiFolder(tmp_path / "api-pki")
    CertificateAuthority.found(pki, [], unix_ms())
    file = tmp_path / "fleet.toml"
    lines = [f'certificate = "{pki.server.certificate}"', f'key = "{pki.server.key}"']
    plain = file.read_text()
    file.write_text(plain.replace("[devices]", "\n".join([*lines, "[devices]"])))
    with subprocess.Popen(
        [*FLEET, "controller", "run"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as controller:
        try:
            assert controller.stderr is not None
            assert any("Ctrl-C" in line for line in controller.stderr)
            strange = run(tmp_path, "devices")
            assert strange.returncode == 1
            assert "certificate" in strange.stderr.lower()
            ca = f'ca = "{pki.ca.certificate}"'
            file.write_text(file.read_text().replace("[devices]", f"{ca}\n[devices]"))
            known = run(tmp_path, "device", "add", "cam")
            assert known.returncode == 0, known.stderr
        finally:
            controller.terminate()
    assert "whole: " in run(tmp_path, "audit", "verify").stdout
    with sqlite3.connect(tmp_path / "store" / "fleet.db") as raw:
        raw.execute("UPDATE audit SET who = 'nobody' WHERE subject = 'cam'")
    forged = run(tmp_path, "audit", "verify")
    assert (forged.returncode, "row 2 was changed" in forged.stderr) == (1, True), forged
    file.write_text(plain.replace("[devices]", 'certificate = "no"\nkey = "no"\n[devices]'))
    refused = run(tmp_path, "controller", "run")
    assert refused.returncode == 1
    assert "api] certificate" in refused.stderr


@pytest.fixture
def free_tcp_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
