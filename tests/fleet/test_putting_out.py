"""Who is put out stays out, whatever fails or is killed on the way: the real brokers and a real store."""

import os
import ssl

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fleet.broker import BrokerProcess, find_broker
from fleet.pki.access import Access, found_pki
from fleet.pki.enrolment import STRANGER_MS, Enrolment
from fleet.pki.folder import PkiFolder
from fleet.registry import remove_device
from tests.fleet.peers import Fleet
from tests.fleet.secured import Client, new_key, new_request, now_unix_ms, until
from tests.fleet.test_broker import any_port
from wire.endpoint import TlsFiles
from wire.enrolment import CONFIRM_CONTEXT, RENEW_CONTEXT
from wire.errors import ConfigError, PeerError, StorageError

BROKER = "mqtts://127.0.0.1:1"


class Gate:
    """A fleet whose controller lets devices in, on a broker of its own where it is given one."""

    def __init__(self, folder, broker=None):
        self.fleet = Fleet(folder, now_unix_ms=now_unix_ms())
        self.fleet.add("cam-01", "cam-02")
        self.pki = PkiFolder(folder / "pki")
        self.told = []
        self._broker = broker
        self.start()

    def start(self):
        """Begin as a controller does that was killed; it has not looked after anything yet."""
        url = BROKER if self._broker is None else f"mqtts://127.0.0.1:{self._broker.port}"
        authority = found_pki(self.pki, (), self.now())
        self.access = Access(
            authority, self.fleet.store, self.now, broker_url=url,
            reload=self._tell,
        )  # fmt: skip
        self.enrolment = Enrolment(
            authority, self.fleet.store, self.access, self.now,
            broker_url=url, door_url="", root=lambda: "",
        )  # fmt: skip
        self.fleet.controller.admit_by(self.enrolment)

    def _tell(self):
        self.told.append(1)
        if self._broker is not None:
            self._broker.reload()

    def now(self):
        return self.fleet.now_unix_ms

    def enrol(self, device="cam-01", path=None):
        """Return a device's key, which is written to `path`, and its certificate."""
        key = new_key(path)
        token = self.enrolment.invite(device).token
        return key, self.enrolment.enroll(token, new_request(key, device)).certificate

    def usable(self):
        with self.fleet.store.read() as tx:
            return [name for _, name in tx.identities.usable(self.now())]


@pytest.fixture
def gate(tmp_path):
    made = Gate(tmp_path)
    yield made
    made.fleet.controller.stop()
    made.fleet.store.close()


def asks(gate, key, certificate):
    """Yield all that a certificate is good for over HTTPS."""
    csr = new_request(new_key(), "cam-01")
    texts = RENEW_CONTEXT + csr.encode(), CONFIRM_CONTEXT + certificate.encode()
    renewal, confirmation = (key.sign(text, ec.ECDSA(hashes.SHA256())) for text in texts)
    yield lambda: gate.enrolment.renew(certificate, csr, renewal)
    yield lambda: gate.enrolment.confirm(certificate, confirmation)
    yield lambda: gate.enrolment.identify(ssl.PEM_cert_to_DER_cert(certificate))


def test_a_removal_whose_broker_cannot_be_told_has_revoked_all_the_same(gate):
    key, certificate = gate.enrol()
    for ask in asks(gate, key, certificate):
        ask()
    spoil(gate.pki)
    with pytest.raises(StorageError):
        gate.fleet.controller.remove_device("cam-01")
    assert gate.usable() == []
    gate.fleet.add("cam-01")  # nor does it come back with its id
    for ask in asks(gate, key, certificate):
        with pytest.raises(PeerError) as caught:
            ask()
        assert caught.value.code == "revoked"


def test_a_certificate_that_a_removal_left_behind_is_good_for_nothing(gate):
    key, certificate = gate.enrol()
    gate.enrol("cam-02")
    with gate.fleet.store.write() as tx:  # as a controller of before did, when it was killed
        tx.devices.remove("cam-01")
    for ask in asks(gate, key, certificate):
        with pytest.raises(PeerError, match="removed from the fleet") as caught:
            ask()
        assert caught.value.code == "revoked"
    gate.fleet.now_unix_ms += STRANGER_MS - 1
    gate.enrolment.tidy()
    assert sorted(gate.usable()) == ["cam-01", "cam-02"], "an audit's devices would be revoked"
    gate.fleet.now_unix_ms += 2
    gate.enrolment.tidy()
    assert gate.usable() == ["cam-02"]


def test_who_watches_is_no_stranger(gate):
    gate.enrolment.observe("eve", new_request(new_key(), "fleet.observer.eve"))
    gate.fleet.now_unix_ms += STRANGER_MS + 1
    gate.enrolment.tidy()
    assert gate.usable() == ["fleet.observer.eve"]


def spoil(pki):
    """Have nothing be written of who was revoked."""
    pki.crl.rename(pki.crl.with_suffix(".aside"))
    pki.crl.mkdir()


def mend(pki):
    pki.crl.rmdir()
    pki.crl.with_suffix(".aside").rename(pki.crl)


@pytest.fixture(params=["mosquitto", "nats"])
def secured(request, tmp_path):
    try:
        program = find_broker(request.param)
    except ConfigError as exc:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have this broker: {exc}")
        pytest.skip(f"NOT TESTED: {exc}")
    pki = PkiFolder(tmp_path / "pki")
    found_pki(pki, ["127.0.0.1"], now_unix_ms())
    broker = BrokerProcess(program, any_port(), tmp_path / "broker", pki=pki)
    broker.start()
    made = Gate(tmp_path, broker)
    made.port = broker.port
    yield made
    made.fleet.controller.stop()
    made.fleet.store.close()
    broker.stop()


def session(gate, folder, device="cam-01"):
    """Return a client that is in, with a certificate of its own."""
    files = TlsFiles(gate.pki.ca.certificate, folder / f"{device}.pem", folder / f"{device}.key")
    _, certificate = gate.enrol(device, files.key)
    files.certificate.write_text(certificate)
    return until(lambda: entered(gate, files, device), f"{device} is let in")


def entered(gate, files, client_id):
    """Return a client that the broker lets in, or None."""
    client = Client(gate, files, client_id)
    if client.connects():
        return client
    client.stop()
    return None


@pytest.mark.broker
def test_a_session_that_a_failing_disk_left_open_is_cut_by_the_next_look(secured, tmp_path):
    client, other = (session(secured, tmp_path, name) for name in ("cam-01", "cam-02"))
    spoil(secured.pki)
    with pytest.raises(StorageError):
        secured.fleet.controller.remove_device("cam-01")
    with pytest.raises(StorageError):
        secured.enrolment.make_good()
    assert not client.down.is_set(), "it was cut already: this test proves nothing"
    mend(secured.pki)
    secured.enrolment.make_good()
    assert client.down.wait(10)
    assert not other.down.is_set()
    client.stop()
    other.stop()


@pytest.mark.broker
def test_a_session_that_a_kill_left_open_is_cut_at_the_next_start(secured, tmp_path):
    client, other = (session(secured, tmp_path, name) for name in ("cam-01", "cam-02"))
    with secured.fleet.store.write() as tx:
        remove_device(tx, "cam-01", secured.now())
    secured.access.refresh()  # so far came the controller that was killed
    secured.start()
    secured.enrolment.make_good()
    assert client.down.wait(10)
    assert not other.down.is_set()
    # It has been seen out: a device of its name that is let in later is left alone.
    secured.fleet.add("cam-01")
    again = session(secured, tmp_path)
    secured.start()
    secured.enrolment.make_good()
    secured.enrolment.revoke("cam-02")
    assert other.down.wait(10)
    assert not again.down.is_set()
    for one in (client, other, again):
        one.stop()


@pytest.mark.broker
def test_who_was_seen_out_is_not_cut_again_and_a_broker_that_was_away_is_asked_again(
    secured, tmp_path
):
    session(secured, tmp_path).stop()
    secured._broker.stop()
    assert secured.enrolment.revoke("cam-01") == (1, False)
    secured.told.clear()
    secured.enrolment.make_good()
    assert secured.told, "a broker that nobody could reach counts as told"
    secured._broker.start()
    secured.enrolment.make_good()
    secured.told.clear()
    secured.enrolment.make_good()
    assert secured.told == []


def watch(gate, folder):
    """Return a client that watches, with the newest certificate of its name."""
    key = folder / "eve.key"
    files = TlsFiles(gate.pki.ca.certificate, folder / "eve.pem", key)
    csr = new_request(new_key(key), "fleet.observer.eve")
    files.certificate.write_text(gate.enrolment.observe("eve", csr).certificate)
    return files, until(lambda: entered(gate, files, "eve"), "eve is let in")


@pytest.mark.broker
def test_an_observer_that_is_revoked_is_cut_and_cannot_come_back(secured, tmp_path):
    other = session(secured, tmp_path)
    files, eve = watch(secured, tmp_path)
    count, is_cut = secured.enrolment.revoke_observer("eve")
    assert count == 1
    assert is_cut == (secured._broker.program.kind == "mosquitto")
    assert eve.down.wait(10)
    until(lambda: entered(secured, files, "eve") is None, "it is refused")
    assert secured.enrolment.observers() == []
    assert secured.enrolment.revoke_observer("eve")[0] == 0, "to say it again is no error"
    with pytest.raises(PeerError) as caught:
        secured.enrolment.revoke_observer("fred")
    assert caught.value.code == "unknown_observer"
    assert not other.down.is_set()
    for one in (eve, other):
        one.stop()


@pytest.mark.broker
def test_the_next_certificate_of_an_observer_cuts_who_has_the_one_before(secured, tmp_path):
    thief = tmp_path / "thief"
    thief.mkdir()
    files, eve = watch(secured, thief)
    secured.enrolment.observe("eve", new_request(new_key(), "fleet.observer.eve"))
    assert eve.down.wait(10)
    until(lambda: entered(secured, files, "eve") is None, "it is refused")
    eve.stop()


@pytest.mark.broker
def test_a_failing_disk_saves_nobody_who_has_an_observers_former_certificate(secured, tmp_path):
    _, eve = watch(secured, tmp_path)
    spoil(secured.pki)
    with pytest.raises(StorageError):
        secured.enrolment.observe("eve", new_request(new_key(), "fleet.observer.eve"))
    mend(secured.pki)
    secured.enrolment.make_good()
    assert eve.down.wait(10)
    eve.stop()
