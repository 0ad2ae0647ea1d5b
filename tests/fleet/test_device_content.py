"""Content for devices over HTTPS: who gets it from the real listener, who does not, and hostile paths."""

import asyncio
import contextlib
import hashlib
import http.client
import json
import ssl
import threading

import pytest
import zstandard

from agent.adapters import door as agent_door
from agent.adapters.identity import Identity
from fleet.api.device_access import MAX_AT_ONCE, DeviceGate
from fleet.api.device_app import build_device_app
from fleet.pki.authority import DAY_MS, CertificateAuthority
from fleet.pki.folder import KeyPair, PkiFolder
from tests.fleet.secured import new_key, new_request, now_unix_ms
from tests.fleet.site import Site
from wire.endpoint import TlsFiles
from wire.errors import PeerError

PLAIN = b"a chunk " * 1000
DIGEST = hashlib.sha256(PLAIN).hexdigest()
TIMESTAMP = '{"signatures":[],"signed":{}}'
CHUNK, DOCUMENT = f"/v1/chunks/{DIGEST}", "/v1/trust/timestamp.json"


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path / "controller")
    made.release({DIGEST: PLAIN})
    with made.store.write() as tx:
        tx.trust.add("timestamp", 3, TIMESTAMP)
    yield made
    made.stop()


@pytest.fixture
def identity(tmp_path, site):
    return enrolled(tmp_path / "state", site)


def enrolled(folder, site, device="cam-01"):
    identity = Identity(folder)
    agent_door.enrol(identity, device, site.url, site.token(device), named_root=None)
    return identity


def nobody(site):
    return TlsFiles(site.folder.ca.certificate)


def program(site, pair):
    return TlsFiles(site.folder.ca.certificate, pair.certificate, pair.key)


def observer(site, folder):
    key = new_key(folder / "eve.key")
    welcome = site.enrolment.observe("eve", new_request(key, "fleet.observer.eve"))
    (folder / "eve.pem").write_text(welcome.certificate)
    return TlsFiles(site.folder.ca.certificate, folder / "eve.pem", folder / "eve.key")


class Asker:
    """One connection to the listener. A context manager."""

    def __init__(self, site, files):
        host, _, port = site.url.removeprefix("https://").partition(":")
        self._connection = http.client.HTTPSConnection(
            host, int(port), timeout=30, context=files.context()
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._connection.close()

    def get(self, path, method="GET"):
        """Return status and body; that of a refusal is its code."""
        self._connection.putrequest(method, path, skip_accept_encoding=True)
        self._connection.endheaders()
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status == 200 or method == "HEAD":
            return answer.status, body
        told = json.loads(body)
        assert told.keys() == {"code", "message", "hint"}
        return answer.status, told["code"]


def get(site, files, path=CHUNK):
    with Asker(site, files) as asker:
        return asker.get(path)


def test_a_device_gets_the_bytes_that_travel_over_mqtt(site, identity):
    with Asker(site, identity.files()) as asker:
        status, body = asker.get(CHUNK)
        assert (status, body) == (200, site.store.chunks.read(DIGEST))
        assert zstandard.ZstdDecompressor().decompress(body) == PLAIN
        assert asker.get(DOCUMENT) == (200, TIMESTAMP.encode())
        assert asker.get("/v1/trust/3.timestamp.json") == (200, TIMESTAMP.encode())


ROUTES = {
    ("GET", "/v1/ca"): None,
    ("POST", "/v1/enroll"): None,
    ("POST", "/v1/renew"): None,
    ("POST", "/v1/confirm"): None,
    ("GET", "/v1/chunks/{digest}"): CHUNK,
    ("GET", "/v1/trust/{file}"): DOCUMENT,
    ("POST", "/v1/captures"): "/v1/captures",
    ("GET", "/v1/unknown-devices/{device}"): "/v1/unknown-devices/doctor-12",
}
"""Every route of the listener, and a request for those that are for devices only."""


def test_every_route_is_open_to_all_or_to_devices_alone(site, identity, tmp_path):
    app = build_device_app(site.enrolment, site.store, site.strangers.__contains__)
    assert {(method, r.path) for r in app.routes for method in r.methods} == ROUTES.keys()
    callers = {
        "nobody": (nobody(site), (401, "no_certificate")),
        "observer": (observer(site, tmp_path), (403, "not_a_device")),
        "first observer": (program(site, site.folder.observer), (403, "not_ours")),
        "controller": (program(site, site.folder.controller), (403, "not_ours")),
        "device": (identity.files(), None),
    }
    for (method, path), closed in ROUTES.items():
        for name, (files, refusal) in callers.items():
            with Asker(site, files) as asker:
                answer = asker.get(closed or path, method)
            if closed is not None and refusal is not None:
                assert answer == refusal, (name, path)
            else:
                assert answer[0] not in (401, 403, 404, 405), (name, path)


def test_a_device_that_is_put_out_gets_nothing_more_on_the_same_connection(site, identity):
    with Asker(site, identity.files()) as asker:
        assert asker.get(CHUNK)[0] == 200
        site.enrolment.revoke("cam-01")
        assert asker.get(CHUNK) == (403, "revoked")
        assert asker.get(DOCUMENT) == (403, "revoked")
    assert get(site, identity.files()) == (403, "revoked")


def test_of_a_renewal_both_certificates_count_until_the_newer_is_confirmed(site, identity):
    files = identity.files()
    with Asker(site, files) as former:
        agent_door.renew(identity)
        assert former.get(CHUNK)[0] == 200
        assert get(site, identity.files())[0] == 200
        identity.settle_trial()
        agent_door.confirm(identity)
        assert former.get(CHUNK) == (403, "revoked")
    assert get(site, identity.files())[0] == 200


def test_a_certificate_of_another_fleet_does_not_even_connect(site, tmp_path):
    other = CertificateAuthority.found(PkiFolder(tmp_path / "other"), (), now_unix_ms())
    pair = KeyPair(tmp_path / "cam.key", tmp_path / "cam.pem")
    other.issue_program(pair, "cam-01", now_unix_ms())
    with pytest.raises((ssl.SSLError, ConnectionError)):
        get(site, program(site, pair))


def test_one_of_the_own_authority_that_is_not_on_record_is_refused(site, tmp_path):
    pair = KeyPair(tmp_path / "cam.key", tmp_path / "cam.pem")
    CertificateAuthority(site.folder).issue_program(pair, "cam-01", now_unix_ms())
    assert get(site, program(site, pair)) == (403, "not_ours")


def test_an_expired_certificate_gets_no_content_and_is_renewed_all_the_same(site, tmp_path):
    site.late_ms = -40 * DAY_MS
    identity = enrolled(tmp_path / "old", site)
    site.late_ms = 0
    with pytest.raises((ssl.SSLError, ConnectionError)):
        get(site, identity.files())
    agent_door.renew(identity)
    assert get(site, identity.files())[0] == 200


def test_a_connection_does_not_outlive_its_certificate(site, identity):
    with Asker(site, identity.files()) as asker:
        assert asker.get(CHUNK)[0] == 200
        site.late_ms = 40 * DAY_MS
        assert asker.get(CHUNK) == (403, "certificate_expired")


def test_only_chunks_of_releases_are_given_and_only_sound_ones(site, identity):
    stray = b"pushed, and then the power went"
    site.store.chunks.add({hashlib.sha256(stray).hexdigest(): stray})
    files = identity.files()
    for digest in (hashlib.sha256(stray).hexdigest(), "0" * 64):
        assert get(site, files, f"/v1/chunks/{digest}") == (404, "unknown_chunk")
    site.store.chunks._path(DIGEST).write_bytes(b"rot")
    assert get(site, files) == (503, "chunk_lost")


HOSTILE = [
    "", ".", "..", "../fleet.db", "..%2f..%2ffleet.db", "%2e%2e/%2e%2e/fleet.db", "%00", "%0a", "a" * 63,
    "a" * 65, "A" * 64, DIGEST.upper(), f"{DIGEST}%0a", f"{DIGEST}%00", f"{DIGEST}/", f"/{DIGEST}", f"{DIGEST}/x",
    f"./{DIGEST}", "%ff%fe", "x" * 30_000, "0.root.json", "01.root.json", "1.evil.json", "9" * 40 + ".root.json",
    "-1.root.json", "root.json/..", "model-.json", "1.model-a/b.json", "timestamp.json%00", "timestamp.json%0a",
    "TIMESTAMP.json", "fleet.db", "*", "'%20OR%201=1%20--",
]  # fmt: skip


def test_hostile_paths_lead_nowhere(site, identity):
    with Asker(site, identity.files()) as asker:
        for path in (folder + name for folder in ("/v1/chunks/", "/v1/trust/") for name in HOSTILE):
            status, code = asker.get(path)
            assert status in (404, 422), path
            assert code in {"not_found", "unknown_chunk", "unknown_document", "invalid_request"}
        assert asker.get(CHUNK)[0] == 200


def test_content_is_read_and_nothing_else(site, identity):
    with Asker(site, identity.files()) as asker:
        for method in ("HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            assert asker.get(CHUNK, method)[0] == 405
            assert asker.get(DOCUMENT, method)[0] == 405


def test_one_device_cannot_take_all_the_places(site, identity, tmp_path):
    gate = DeviceGate(site.enrolment)
    shown, other = (
        ssl.PEM_cert_to_DER_cert(
            one.files().certificate.read_text().partition("-----END PRIVATE KEY-----\n")[2]
        )
        for one in (identity, enrolled(tmp_path / "other", site, "cam-02"))
    )

    async def crowd():
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(MAX_AT_ONCE):
                await stack.enter_async_context(gate.passing(shown))
            with pytest.raises(PeerError) as caught:
                await stack.enter_async_context(gate.passing(shown))
            assert caught.value.code == "too_many_requests"
            await stack.enter_async_context(gate.passing(other))
        async with gate.passing(shown):
            pass

    asyncio.run(crowd())


def test_many_devices_are_answered_at_once(site, identity):
    answers = []

    def ask():
        with Asker(site, identity.files()) as asker:
            answers.extend(asker.get(CHUNK)[0] for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(MAX_AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 20 * MAX_AT_ONCE
