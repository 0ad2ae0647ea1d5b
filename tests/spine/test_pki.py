"""Certificates on the real programs: three lives, a long absence, and a device that is put out."""

import hashlib
import json
import re
import threading
import time

import pytest

from tests.fleet.secured import Client as Intruder
from tests.spine.processes import Program, until
from wire.endpoint import TlsFiles

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

LIFE_S = 12
KINDS = ["mosquitto", "nats"]
CUT_S = 10
"""What `fleet device revoke` promises: so long may a session that is open then live on."""


def own(bed, **settings):
    """Change the fleet's file before its controller starts again."""
    path = bed.fleet_dir / "fleet.toml"
    lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
    path.write_text(path.read_text().replace("[devices]\n", f"[devices]\n{lines}"))
    assert bed.controller.end() == 0
    bed.start_controller()


def identity(bed, name):
    return bed.fleet_dir / "devices" / name / "state/identity"


def renewals(bed, name):
    return len(re.findall("the new certificate works", bed.devices[name].log.read_text()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_goes_through_three_lives_and_comes_back_after_a_long_absence(make_bed, kind):
    bed = make_bed(kind, is_split=False)
    own(bed, certificate_days=LIFE_S / 86_400)
    bed.add("cam-0")
    device = bed.devices["cam-0"]
    bed.until("it has gone through three", lambda: renewals(bed, "cam-0") >= 3)
    assert device.end() == 0
    before = renewals(bed, "cam-0")
    gone_at_s = time.monotonic()
    until("its certificate has expired", lambda: time.monotonic() > gone_at_s + 1.5 * LIFE_S)
    device.start()
    bed.until("it has renewed", lambda: renewals(bed, "cam-0") > before)
    bed.until_online("cam-0")
    assert set(bed.end().values()) == {0}
    assert bed.tracebacks() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_that_is_put_out_is_cut_and_cannot_come_back(make_bed, kind):
    bed = make_bed(kind, is_split=False)
    bed.add("cam-0", "cam-1")
    pem = identity(bed, "cam-0") / "device.pem"
    files = TlsFiles(bed.pki.ca.certificate, pem, pem)
    bed.fleet("device", "revoke", "cam-0", "--yes")
    bed.until_online("cam-0", is_online=False)
    intruder = Intruder(_At(bed._broker_port), files, "cam-0")
    assert not intruder.connects(), "its certificate still opens the broker"
    bed.until("it says why", lambda: "revoked, expired" in bed.devices["cam-0"].log.read_text()
              or "Not authorized" in bed.devices["cam-0"].log.read_text())  # fmt: skip
    bed.until_online("cam-1")
    # Nor by its old token, which is still in its file.
    assert bed.devices["cam-0"].end() == 0
    folder = identity(bed, "cam-0")
    for path in (*folder.iterdir(), folder.with_name("identity.copy")):
        path.unlink()
    again = Program("again", ["fleet-agent", "run", "--config", "cam-0.toml"], bed.fleet_dir)
    again.start()
    until("it gives up", lambda: not again.is_alive)
    assert "join token" in again.log.read_text()
    # A new token is a person's word.
    command = bed.fleet("device", "token", "cam-0")
    url, token = re.search(r"--url (\S+) --token (\S+)", command).groups()
    root = hashlib.sha256((bed.fleet_dir / "root.json").read_bytes()).hexdigest()
    assert token.endswith(root), "the device may be given any root of trust"
    enroll = ["fleet-agent", "enroll", "--config", "cam-0.toml", "--url", url, "--token", token]
    program = Program("enroll", enroll, bed.fleet_dir)
    program.start()
    until("it has enrolled", lambda: not program.is_alive)
    assert "enrolled as cam-0" in program.log.read_text()
    bed.devices["cam-0"].start()
    bed.until_online("cam-0")


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_is_cut_within_ten_seconds_whoever_holds_it(make_bed, kind):
    bed = make_bed(kind, is_split=False)
    bed.add("thief", "agent", "bystander")
    # A thief has this one's certificate, and comes back as soon as it is thrown out.
    assert bed.devices["thief"].end() == 0
    pem = identity(bed, "thief") / "device.pem"
    files = TlsFiles(bed.pki.ca.certificate, pem, pem)
    thief = Persistent(bed._broker_port, files, "thief")
    until("it is in", lambda: thief.client is not None)
    gone_s = {}
    try:
        for name in ("thief", "agent"):
            bed.fleet("device", "revoke", name, "--yes")
            gone_s[name] = time.monotonic()
        tries = thief.refusals
        until("time is up", lambda: time.monotonic() > gone_s["agent"] + 1.5 * CUT_S)
        assert thief.refusals > tries, "it did not try to come back"
        assert thief.client is None, "it is in"
    finally:
        thief.stop()
    agent = presence(bed, "agent")[-1]
    assert agent.body["state"] == "offline"
    took_s = {"thief": thief.last_in_s - gone_s["thief"], "agent": agent.at_s - gone_s["agent"]}
    print(f"{kind}: cut after the command's return, in s: {took_s}")  # noqa: T201 - the figure
    assert max(took_s.values()) <= CUT_S
    assert [one.body["state"] for one in presence(bed, "bystander")] == ["online"]


def presence(bed, name):
    return [one for one in bed.observer.of("presence") if one.device == name]


class Persistent:
    """A client that holds a session, and makes the next as soon as it has lost it.

    Attributes:
        client: The one that is in, None while none is.
        last_in_s: When the last one that was in was found to be cut (monotonic).
        refusals: How often the broker did not let it in.
    """

    def __init__(self, port, files, name):
        self.client = None
        self.refusals = 0
        self.last_in_s = 0.0
        self._made = (_At(port), files, name)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self):
        self._ended.set()
        self._thread.join()

    def _run(self):
        while not self._ended.is_set():
            client = Intruder(*self._made)
            if client.connects():
                self.client = client
                while not (client.down.wait(0.05) or self._ended.is_set()):
                    pass
                self.last_in_s, self.client = time.monotonic(), None
            else:
                self.refusals += 1
            client.stop()
            self._ended.wait(0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_broker_keeps_nothing_of_a_rogue_that_is_removed(make_bed, kind):
    bed = make_bed(kind, is_split=False)
    bed.add("cam-0", "cam-1")
    bed.observer.stop()  # it has the name that `retained` comes under, and would come back
    assert bed.devices["cam-0"].end() == 0
    pem = identity(bed, "cam-0") / "device.pem"
    files = TlsFiles(bed.pki.ca.certificate, pem, pem)
    will = ("fleet/v1/device/cam-0/presence", b"its last will")
    rogue = Intruder(_At(bed._broker_port), files, "cam-0", will=will)
    assert rogue.connects()
    for topic in ("reported", "telemetry/vitals", "telemetry/window", "event/update"):
        rogue.publish(f"fleet/v1/device/cam-0/{topic}", b"x" * 1000)
    until("it is retained", lambda: len(retained(bed, "cam-0")) >= 4)
    bed.fleet("device", "remove", "cam-0", "--yes")
    assert rogue.down.wait(CUT_S)
    until("nothing of it is left", lambda: retained(bed, "cam-0") == set())
    assert {topic.rpartition("/")[2] for topic in retained(bed, "cam-1")} == {
        "presence",
        "reported",
    }
    rogue.stop()


def retained(bed, device):
    """Return the topics of a device on which the broker has something, for who comes now."""
    pair = bed.pki.observer
    files = TlsFiles(bed.pki.ca.certificate, pair.certificate, pair.key)
    # NATS lets any client id in; with mosquitto it is the certificate's name, and one at a time.
    newcomer = Intruder(_At(bed._broker_port), files, "newcomer")
    assert newcomer.connects()
    try:
        assert newcomer.subscribe(f"fleet/v1/device/{device}/#")
        assert newcomer.subscribe("fleet/v1/controller/presence")
        until("it has heard all", lambda: any("controller" in t for t, _ in newcomer.received))
        return {topic for topic, payload in newcomer.received if device in topic and payload}
    finally:
        newcomer.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_that_is_removed_is_out_too(make_bed, kind):
    bed = make_bed(kind, is_split=False)
    bed.add("cam-0")
    pem = identity(bed, "cam-0") / "device.pem"
    bed.fleet("device", "remove", "cam-0", "--yes")
    intruder = Intruder(_At(bed._broker_port), TlsFiles(bed.pki.ca.certificate, pem, pem), "cam-0")
    until("its certificate opens nothing", lambda: not intruder.connects())
    with pytest.raises(AssertionError, match="unknown_device"):
        bed.device("cam-0")


def test_an_observer_is_told_until_when_it_can_watch(make_bed):
    bed = make_bed("mosquitto", is_split=False)
    said = bed.fleet("observer", "eve")
    assert re.search(r"good until 20\d\d-\d\d-\d\d, and renewed by nobody", said)
    (eve,) = json.loads(bed.fleet("observers", "--json"))
    days = (eve["not_after_unix_ms"] - eve["issued_unix_ms"]) / 86_400_000
    assert (eve["name"], round(days)) == ("eve", 365)
    assert "eve" in bed.fleet("observers")
    assert re.search(
        r"revoked 1 certificate of eve", bed.fleet("observer", "revoke", "eve", "--yes")
    )
    assert json.loads(bed.fleet("observers", "--json")) == []
    bed.fleet("observer", "add", "fred")  # the long form of `observer fred`
    assert [one["name"] for one in json.loads(bed.fleet("observers", "--json"))] == ["fred"]
    acts = [(one["what"], one["subject"]) for one in bed.get("/v1/audit")]
    assert ("POST /v1/observers/{name}/revoke", "fleet.observer.eve") in acts


class _At:
    def __init__(self, port):
        self.port = port
