"""The audit against brokers that do as they should, and against one that does not."""

import os
import signal
import socket
import subprocess
from dataclasses import replace

import pytest

from agent.doctor import _ask_broker
from fleet.api.schemas import DeviceIn
from fleet.broker import BrokerProcess, find_broker
from fleet.pki import brokers
from fleet.pki.access import Access, found_pki
from fleet.pki.audit import Audit
from fleet.pki.authority import read_request
from fleet.pki.brokers import Listener
from fleet.pki.folder import KeyPair, PkiFolder
from fleet.registry import add_devices
from fleet.store.devices import PresenceRow
from fleet.store.identities import CertificateRow
from fleet.store.store import Store
from tests.fleet.secured import new_key, new_request, now_unix_ms, until
from tests.fleet.test_broker import any_port
from wire.endpoint import Endpoint, TlsFiles
from wire.errors import ConfigError

pytestmark = pytest.mark.broker


def program_of(kind):
    try:
        return find_broker(kind)
    except ConfigError as exc:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have this broker: {exc}")
        pytest.skip(f"NOT TESTED: {exc}")


@pytest.fixture
def make(tmp_path):
    """Give an audit of a broker; `reload` is what the controller knows of how to tell it."""
    store = Store(tmp_path / "fleet.db", tmp_path)
    authority = found_pki(PkiFolder(tmp_path / "pki"), (), now_unix_ms())

    def make(port, reload, log=None):
        url = f"mqtts://127.0.0.1:{port}"
        access = Access(
            authority, store, now_unix_ms, broker_url=url, reload=reload, broker_log=log
        )
        return Audit(authority, store, access, now_unix_ms, access.broker_url)

    make.pki = authority.folder
    make.store = store
    yield make
    store.close()


def verdicts(audit):
    return {finding.subject: finding.verdict for finding in audit.run()}


@pytest.mark.parametrize("kind", ["mosquitto", "nats"])
def test_a_broker_that_is_configured_by_us_has_no_fault(make, tmp_path, kind):
    process = BrokerProcess(program_of(kind), any_port(), tmp_path / "broker", pki=make.pki)
    process.start()
    try:
        found = verdicts(make(process.port, process.reload, process.log_path))
    finally:
        process.stop()
    assert {subject for subject, verdict in found.items() if verdict != "ok"} == (
        {"client id"} if kind == "nats" else set()
    )
    assert {"writing", "reading", "kinds", "certificates", "revocation", "logging"} <= found.keys()
    with make.store.read() as tx:
        assert not tx.identities.usable(now_unix_ms()), "what it tried with is still good"


SILENT = {
    "mosquitto": ("log_type error\nlog_type warning\n", "log_type none\n"),
    "nats": ("server_name: modelfleet\n", 'server_name: modelfleet\nlog_file: "/dev/null"\n'),
}


@pytest.mark.parametrize("kind", SILENT)
def test_a_broker_that_logs_nothing_is_found_out(make, tmp_path, kind):
    program, port, log = program_of(kind), any_port(), tmp_path / "broker.log"
    text = getattr(brokers, kind)(Listener("127.0.0.1", port, tmp_path, tmp_path, make.pki))
    ours, silent = SILENT[kind]
    assert ours in text
    config = tmp_path / "silent.conf"
    config.write_text(text.replace(ours, silent))
    with log.open("wb") as output:
        broker = subprocess.Popen([program.path, "-c", config], stdout=output, stderr=output)
    try:
        until(lambda: is_open(port), "it listens")
        audit = make(port, lambda: broker.send_signal(signal.SIGHUP), log)
        found = {finding.subject: finding for finding in audit.run()}
    finally:
        broker.terminate()
        broker.wait()
    assert found["logging"].verdict == "fault"
    assert str(log) in found["logging"].text
    # It does all else that it should: only its silence is at fault.
    assert {name for name, one in found.items() if one.verdict == "fault"} == {"logging"}


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def loose(make, tmp_path):
    """A mosquitto that asks for certificates, and then lets everybody do everything."""
    port, pki = any_port(), make.pki
    config = tmp_path / "loose.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nrequire_certificate true\n"
        f"cafile {pki.ca.certificate}\ncertfile {pki.server.certificate}\nkeyfile {pki.server.key}\nuser root\n"
    )
    broker = subprocess.Popen([program_of("mosquitto").path, "-c", config])

    until(lambda: is_open(port), "it listens")
    yield port
    broker.terminate()
    broker.wait()


def test_a_broker_that_confines_nobody_is_found_out(make, loose):
    found = verdicts(make(loose, lambda: None))
    faults = {subject for subject, verdict in found.items() if verdict == "fault"}
    assert faults == {"writing", "reading", "revocation"}
    assert found["client id"] == found["kinds"] == "warning"


def test_a_device_finds_out_by_itself_that_it_is_not_confined(make, loose):
    audit = make(loose, lambda: None)
    home = make.pki.root
    pair = KeyPair(home / "cam-01.key", home / "cam-01.pem")
    audit.authority.issue_program(pair, "cam-01", now_unix_ms())
    files = TlsFiles(make.pki.ca.certificate, pair.certificate, pair.key)
    seen = _ask_broker("cam-01", Endpoint(f"mqtts://127.0.0.1:{loose}", files))
    assert seen.fault is None
    assert [topic.split("/")[3][:7] for topic in seen.foreign] == ["doctor-"]


def test_a_broker_that_is_away_is_a_fault_and_the_rest_is_looked_at(make):
    audit = make(any_port(), lambda: None)
    found = {finding.subject: finding for finding in audit.run()}
    assert found["broker"].verdict == "fault"
    assert found["shared keys"].verdict == "ok"


def test_bad_habits_on_record_are_named(make):
    audit = make(any_port(), lambda: None)
    now, old = now_unix_ms(), now_unix_ms() - 5 * 86_400_000
    issued = audit.authority.issue(read_request(new_request(new_key(), "cam-01")), now)
    row = CertificateRow(
        issued.serial, "cam-01", issued.key_digest, issued.pem, old - 1, now + 10**9
    )
    with make.store.write() as tx:
        add_devices(tx, [DeviceIn(id=name) for name in ("cam-01", "cam-02", "cam-03")], now)
        for number, (device, at, revoked) in enumerate(
            [("cam-01", old - 1, None), ("cam-01", old, None), ("cam-02", old, None), ("cam-03", old, now)]
        ):  # fmt: skip
            digest = issued.key_digest if device != "cam-03" else "f" * 64
            tx.identities.add_certificate(
                replace(row, serial=f"{number:040x}", device=device, key_digest=digest,
                        issued_unix_ms=at, revoked_unix_ms=revoked)
            )  # fmt: skip
        for name in ("cam-01", "cam-03"):
            tx.devices.set_presence(name, PresenceRow("online", "0" * 16, 1, "", "a", now))
        tx.identities.add_certificate(
            replace(row, serial="e" * 40, device="fleet.observer.eve", key_digest="e" * 64,
                    not_after_unix_ms=now + 29 * 86_400_000 + 3_600_000)
        )  # fmt: skip
        tx.identities.add_token("0" * 64, "cam-02", now, now + 30 * 86_400_000)
    make.pki.ca.key.chmod(0o644)
    found = {finding.subject: finding for finding in audit.run()}
    texts = {name: finding.text for name, finding in found.items() if finding.verdict != "ok"}
    del texts["broker"]
    assert texts == {
        "shared keys": "cam-01 = cam-02",
        "several certificates": "cam-01",
        "revoked but active": "cam-03",
        "join tokens": "cam-02",
        "observers": "fleet.observer.eve in 29 days",
        "keys of the fleet": "ca.key",
    }
