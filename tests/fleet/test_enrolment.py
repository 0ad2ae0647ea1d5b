"""How devices get in and stay in: the real listener over HTTPS, the agent's own client and files."""

import concurrent.futures
import contextlib
import json
import socket
import ssl
import stat
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.testclient import TestClient

from agent.adapters import door as agent_door
from agent.adapters.identity import Identity
from agent.core.renewal import JITTER_SHARE
from fleet.api.device_app import build_device_app
from fleet.api.errors import answer_to
from fleet.expiries import observer_words
from fleet.pki.authority import DAY_MS, read_certificate
from fleet.pki.enrolment import RENEW_BURST, RENEW_EVERY_S
from tests.fleet.secured import new_key, new_request
from tests.fleet.site import BROKER, Site
from wire.enrolment import CONFIRM_CONTEXT, RENEW_CONTEXT, JoinToken, parse_token
from wire.errors import PeerError, TransferError


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path / "controller")
    yield made
    made.stop()


@pytest.fixture
def identity(tmp_path):
    return Identity(tmp_path / "state")


def enrol(identity, site, device="cam-01", token=None):
    agent_door.enrol(identity, device, site.url, token or site.token(device), named_root=None)


def refused(code):
    @contextlib.contextmanager
    def checked():
        with pytest.raises(PeerError) as caught:
            yield
        assert caught.value.code == code

    return checked()


def test_a_token_brings_key_certificate_authority_root_and_broker(site, identity):
    enrol(identity, site)
    assert identity.is_enrolled
    assert (identity.place().broker_url, identity.place().door_url) == (BROKER, site.url)
    assert json.loads(identity.root.read_text()) == {"signed": {}}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in identity.folder.iterdir()}
    assert modes.pop("device.pem") == 0o600
    assert "new.key" not in modes
    (row,) = site.certificates()
    shown = read_certificate((identity.folder / "device.pem").read_text().partition("-----END PRIVATE KEY-----\n")[2])  # fmt: skip
    assert (shown.serial, shown.name) == (row.serial, "cam-01")
    assert identity.files().context().cert_store_stats()["x509_ca"] == 1
    assert site.told, "the broker was not told"


def test_of_a_hundred_who_use_a_token_at_once_one_gets_in(site):
    token = site.token()
    requests = [new_request(new_key(), "cam-01") for _ in range(100)]
    start = threading.Barrier(100)

    def use(csr):
        start.wait()
        try:
            return site.enrolment.enroll(token, csr).certificate
        except PeerError as exc:
            return exc.code

    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(use, requests))
    assert answers.count("token_used") == 99
    assert len(site.certificates()) == 1


def test_who_asks_again_with_its_key_is_answered_the_same(site):
    token, key = site.token(), new_key()
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        requests = [new_request(key, "cam-01") for _ in range(20)]  # each signed anew
        answers = set(pool.map(lambda csr: site.enrolment.enroll(token, csr).certificate, requests))
    assert len(answers) == 1
    site.late_ms = 7200_000  # the token would have expired by now
    assert {site.enrolment.enroll(token, requests[0]).certificate} == answers


@pytest.mark.parametrize(
    ("device", "spoil", "code"),
    [
        ("cam-01", lambda _token, _site: "mfjoin_x", "token_invalid"),
        ("cam-01", lambda token, _site: token.replace(token[7], "0" if token[7] != "0" else "1", 1), "token_invalid"),
        ("cam-02", lambda token, _site: token, "wrong_device"),
        ("cam-01", lambda token, site: setattr(site, "late_ms", 3_600_001) or token, "token_expired"),
        ("cam-01", lambda token, site: site.token() and token, "token_invalid"),
    ],
    ids=["no-token", "another", "for-another-device", "late", "followed-by-a-newer"],
)  # fmt: skip
def test_a_token_that_does_not_fit_lets_nobody_in(site, identity, device, spoil, code):
    token = spoil(site.token(), site)
    with refused(code):
        enrol(identity, site, device, token)
    assert not identity.is_enrolled
    assert site.certificates() == []


def test_the_token_is_not_told_to_another_authority(site, identity):
    token = parse_token(site.token())
    with refused("wrong_authority"):
        enrol(identity, site, token=str(JoinToken(token.secret, "0" * 64)))
    enrol(identity, site, token=str(token))  # nobody has used it


def test_only_a_key_over_p256_with_the_right_name_is_signed(site):
    for csr in (
        new_request(new_key(curve=ec.SECP384R1()), "cam-01"),
        new_request(new_key(), "cam-01").replace("A", "B"),
        "x" * 5000,
        "",
    ):
        with refused("csr_invalid"):
            site.enrolment.enroll(site.token(), csr)
    for name in ("fleet.controller", "cam-02", "+", "cam-01/#"):
        with refused("wrong_device"):
            site.enrolment.enroll(site.token(), new_request(new_key(), name))


def test_a_certificate_goes_through_three_lives_and_a_long_absence(site, identity):
    enrol(identity, site)
    serials = []
    for days in (20, 40, 60, 400):  # the last after it has expired long ago
        site.late_ms = days * DAY_MS
        agent_door.renew(identity)
        assert identity.is_on_trial
        assert identity.files().certificate.name == "new.pem"
        identity.settle_trial()
        agent_door.confirm(identity)
        assert not identity.is_unconfirmed
        serials.append([row.serial for row in site.certificates() if row.revoked_unix_ms is None])
    assert all(len(alive) == 1 for alive in serials)
    assert len({alive[0] for alive in serials}) == 4
    assert len({row.key_digest for row in site.certificates()}) == 5, "a key was used twice"


def test_a_retired_or_revoked_key_renews_nothing(site, identity):
    enrol(identity, site)
    former = identity.renewal("cam-01")
    agent_door.renew(identity)
    identity.settle_trial()
    agent_door.confirm(identity)
    with refused("revoked"):
        site.enrolment.renew(former.certificate, former.csr, bytes.fromhex(former.signature))
    site.enrolment.revoke("cam-01")
    for ask in (agent_door.renew, agent_door.confirm):
        with refused("revoked"):
            ask(identity)
    enrol(identity, site)  # a new token is a person's word
    agent_door.confirm(identity)


def test_a_revoked_device_cannot_use_the_token_that_it_has_used_nor_one_that_waits(site, identity):
    used = site.token()
    csr = new_request(new_key(), "cam-01")
    site.enrolment.enroll(used, csr)
    waiting = site.token()
    site.enrolment.revoke("cam-01")
    for token in (used, waiting):
        with refused("token_invalid"):
            site.enrolment.enroll(token, csr)


def test_a_request_that_its_key_has_not_signed_is_refused(site, identity, tmp_path):
    enrol(identity, site)
    other = Identity(tmp_path / "other")
    enrol(other, site, "cam-02")
    own, foreign = identity.renewal("cam-01"), other.renewal("cam-02")
    for certificate, csr, signature in (
        (own.certificate, own.csr, foreign.signature),
        (own.certificate, foreign.csr, own.signature),
        (foreign.certificate, own.csr, own.signature),
    ):
        with refused("not_ours"):
            site.enrolment.renew(certificate, csr, bytes.fromhex(signature))
    signed = other.renewal("cam-01")  # by its own key, for another's name
    with refused("wrong_device"):
        site.enrolment.renew(signed.certificate, signed.csr, bytes.fromhex(signed.signature))


def test_a_renewal_that_is_said_again_is_answered_the_same(site, identity):
    enrol(identity, site)
    request = identity.renewal("cam-01")
    told = (request.certificate, request.csr, bytes.fromhex(request.signature))
    assert site.enrolment.renew(*told) == site.enrolment.renew(*told)
    assert len(site.certificates()) == 2


def renew(site, key, certificate, new=None):
    """Renew with another key, as no agent would do before the answer has come."""
    csr = new_request(new or new_key(), "cam-01")
    signature = key.sign(RENEW_CONTEXT + csr.encode(), ec.ECDSA(hashes.SHA256()))
    return site.enrolment.renew(certificate, csr, signature).certificate


def usable(site):
    return {row.pem for row in site.certificates() if row.revoked_unix_ms is None}


@pytest.mark.parametrize("is_chain", [False, True], ids=["one-shows-all", "each-shows-the-last"])
def test_who_renews_on_and_on_has_four_certificates_at_most(site, is_chain):
    key = new_key()
    shown = first = site.enrolment.enroll(site.token(), new_request(key, "cam-01")).certificate
    for _ in range(RENEW_BURST):
        new = new_key()
        answer = renew(site, key, shown, new)
        assert {first, shown, answer} <= usable(site)
        assert len(usable(site)) <= 4
        if is_chain:
            key, shown = new, answer
    told, kept = len(site.told), usable(site)
    for _ in range(30):
        with refused("too_many_renewals"):
            renew(site, key, shown)
    assert (len(site.told), usable(site)) == (told, kept), "the broker had to read again"
    site.late_ms = int(RENEW_EVERY_S * 1000) + 1000
    renew(site, key, shown)
    with refused("too_many_renewals"):
        renew(site, key, shown)


@pytest.mark.parametrize("path", ["/v1/renew", "/v1/confirm"])
def test_an_observer_renews_and_confirms_nothing(site, path):
    key, name = new_key(), "fleet.observer.eve"
    certificate = site.enrolment.observe("eve", new_request(key, name)).certificate
    csr = new_request(new_key(), name)
    text = RENEW_CONTEXT + csr.encode()
    if path == "/v1/confirm":
        text = CONFIRM_CONTEXT + certificate.encode()
    signature = key.sign(text, ec.ECDSA(hashes.SHA256())).hex()
    body = {"certificate": certificate, "signature": signature}
    if path == "/v1/renew":
        body["csr"] = csr
    app = build_device_app(site.enrolment, site.store, site.strangers.__contains__)
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "not_a_device")
    assert [row.pem for row in site.certificates(name)] == [certificate]


def test_too_many_renewals_are_told_when_to_come_again(site, identity):
    enrol(identity, site)
    for _ in range(RENEW_BURST):
        agent_door.renew(identity)
        identity.drop_trial()
    with refused("too_many_renewals"):
        agent_door.renew(identity)
    answer = answer_to(PeerError("", code="too_many_renewals"))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")


def test_a_renewal_that_is_said_again_costs_nothing(site, identity):
    enrol(identity, site)
    request = identity.renewal("cam-01")
    told = (request.certificate, request.csr, bytes.fromhex(request.signature))
    answers = {site.enrolment.renew(*told).certificate for _ in range(3 * RENEW_BURST)}
    assert len(answers) == 1


def test_what_the_second_copy_may_hold_outlives_two_renewals_without_a_word(site, identity):
    enrol(identity, site)
    agent_door.confirm(identity)
    agent_door.renew(identity)
    identity.settle_trial()
    identity.keep()  # so far came a confirmation that never arrived
    held = (identity.folder / "device.pem").read_bytes()
    for _ in range(2):
        agent_door.renew(identity)
        identity.settle_trial()
    (identity.folder / "device.pem").unlink()
    assert identity.heal()
    assert (identity.folder / "device.pem").read_bytes() == held
    agent_door.renew(identity)
    identity.settle_trial()
    agent_door.confirm(identity)
    assert len(usable(site)) == 1


@pytest.mark.parametrize("life_s", [12, 3600, 86_400, 30 * 86_400])
def test_an_agent_whose_clock_is_ahead_may_renew_as_often_as_it_does(tmp_path, life_s):
    site = Site(tmp_path, device_days=life_s / 86_400)
    key = new_key()
    certificate = site.enrolment.enroll(site.token(), new_request(key, "cam-01")).certificate
    for _ in range(5 * RENEW_BURST):
        site.late_ms += int(life_s * 1000 * JITTER_SHARE)
        new = new_key()
        certificate, key = renew(site, key, certificate, new), new
    site.stop()


def test_a_token_that_is_unknown_waits_for_no_other_transaction(site):
    csr = new_request(new_key(), "cam-01")
    unknown = str(JoinToken("0" * 64, parse_token(site.token()).fingerprint))
    pool = concurrent.futures.ThreadPoolExecutor(1)
    with pool, site.store.write():
        asked = pool.submit(site.enrolment.enroll, unknown, csr)
        with refused("token_invalid"):
            asked.result(timeout=120)


def test_confirming_again_writes_nothing(site):
    first, second = new_key(), new_key()
    shown = site.enrolment.enroll(site.token(), new_request(first, "cam-01")).certificate
    shown = renew(site, first, shown, second)
    signature = second.sign(CONFIRM_CONTEXT + shown.encode(), ec.ECDSA(hashes.SHA256()))
    assert site.enrolment.confirm(shown, signature) == 1
    assert usable(site) == {shown}
    pool = concurrent.futures.ThreadPoolExecutor(1)
    with pool, site.store.write():
        assert pool.submit(site.enrolment.confirm, shown, signature).result(timeout=120) == 0


CRASH = """
import os, sys
from pathlib import Path
from agent.adapters import door
from agent.adapters.identity import Identity
folder, url, token, step, left = *sys.argv[1:5], [int(sys.argv[5])]
def hook(event, args):
    if event in ("open", "os.rename", "os.remove", "os.mkdir") and folder in str(args[0]):
        left[0] -= 1
        if left[0] == 0:
            os._exit(9)  # as a power cut would: nothing is flushed, nothing is tidied
sys.addaudithook(hook)
identity = Identity(Path(folder))
if step == "enrol":
    door.enrol(identity, "cam-01", url, token, named_root=None)
elif step == "renew":
    door.renew(identity)
else:
    identity.settle_trial()
    door.confirm(identity)
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["enrol", "renew", "settle"])
def test_a_device_that_dies_at_any_step_gets_in_the_next_time(site, tmp_path, step):
    deaths = 0
    for at in range(1, 60):
        folder = tmp_path / f"{step}-{at}"
        site.late_ms += 3 * 3_600_000  # all of them are one device, which may not renew so often
        identity = Identity(folder)
        token = site.token()
        if step != "enrol":
            enrol(identity, site, token=token)
        if step == "settle":
            agent_door.renew(identity)
        argv = [sys.executable, "-c", CRASH, str(folder), site.url, token, step, str(at)]
        code = subprocess.run(argv, check=False, timeout=240).returncode
        assert code in (0, 9)
        deaths += code == 9
        identity = Identity(folder)
        if step == "enrol" and not identity.is_enrolled:
            enrol(identity, site, token=token)
        assert identity.is_enrolled
        identity.files().context()  # whole, and key and certificate fit
        if step == "renew" and not identity.is_on_trial:
            agent_door.renew(identity)
        if identity.is_on_trial:
            identity.settle_trial()
        agent_door.confirm(identity)
        agent_door.renew(identity)  # with a key of its own
        keys = [row.key_digest for row in site.certificates()]
        assert len(set(keys)) == len(keys)
        if code == 0:
            break
    assert deaths >= 3
    assert code == 0


def test_who_is_no_controller_is_told_from_one_that_is_away(site, identity):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
    with pytest.raises(TransferError):
        enrol(identity, SimpleNamespace(url=url, token=site.token))


def test_a_body_without_end_is_put_out(site):
    context = ssl.create_default_context(cafile=str(site.folder.ca.certificate))
    port = int(site.url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), 30) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as link,
    ):
        link.sendall(
            b"POST /v1/enroll HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999\r\n\r\n" + b"x" * 64_000
        )
        assert b" 413 " in link.recv(4096).partition(b"\r\n")[0]


def test_who_watches_is_listed_with_the_newest_certificate_and_warned_of_in_time(site, identity):
    enrol(identity, site)
    for name in ("fred", "eve"):
        site.enrolment.observe(name, new_request(new_key(), f"fleet.observer.{name}"))
    first = {row.device: row for row in site.enrolment.observers()}
    assert list(first) == ["fleet.observer.eve", "fleet.observer.fred"]
    end_ms = first["fleet.observer.eve"].not_after_unix_ms
    assert not list(observer_words(first.values(), end_ms - 31 * DAY_MS - 1))
    site.late_ms = 340 * DAY_MS
    site.enrolment.observe("fred", new_request(new_key(), "fleet.observer.fred"))
    (said,) = observer_words(site.enrolment.observers(), site.now())
    assert said.startswith("the certificate of the observer eve expires in 24 days")
    site.late_ms = 366 * DAY_MS
    site.enrolment.tidy()
    (said,) = observer_words(site.enrolment.observers(), site.now())
    assert "eve has expired" in said
