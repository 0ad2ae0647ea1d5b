"""Bad input on a fleet that is one for all rows of a file, and what must be true after all of them."""

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import NamedTuple

import httpx
import paho.mqtt.client as mqtt
import pytest
import zstandard
from paho.mqtt.enums import CallbackAPIVersion

from fleet.broker import find_broker
from fleet.pki.authority import CertificateAuthority
from fleet.pki.folder import KeyPair
from fleet.pki.grants import AUDITOR_NAME
from fleet.trust.keys import read_online
from tests.spine.bed import Bed
from tests.spine.claims import check_end, check_serving
from tests.spine.models import NAME
from tests.spine.processes import BIN, ENVIRONMENT, until
from wire import topics
from wire.errors import ConfigError
from wire.trust import Signature, seal, signing_bytes

DEVICE = "cam-0"
DEADLINE_S = 180


@contextlib.contextmanager
def sound_bed(folder, bundles, *, is_split=True):
    """Give a bed with one device that has confirmed version 1.0.0, on the best broker there is."""
    try:
        kind = find_broker().kind
    except ConfigError as exc:
        absent(f"bad input on real programs: {exc}")
    bed = Bed(folder / "bed", kind, bundles, is_split=is_split)
    try:
        bed.start()
        bed.add(DEVICE)
        bed.install("1.0.0")
        yield bed
    finally:
        bed.put_away()


def absent(what):
    """Skip for want of a real component, loudly; fail where it must be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have this: {what}")
    pytest.skip(f"NOT TESTED: {what}")


def check_sound(bed, version="2.0.0"):
    """A good release still comes through, and nobody died or met what it had not expected."""
    bed.install(version)
    check_serving(bed, {DEVICE: version})
    for program in (*bed.devices.values(), bed.controller):
        assert program.is_alive, program.name
        assert program.log.read_text().count("--- ") == 1, f"{program.name} was started again"
    check_end(bed)


def situation(bed):
    """Return what the controller knows that bad input might change, without what time changes."""
    devices = bed.get("/v1/devices")
    for device in devices:
        device.pop("last_seen_unix_ms")
    models = bed.get("/v1/models")
    releases = [bed.get(f"/v1/models/{model['name']}/releases") for model in models]
    return devices, models, releases, bed.get("/v1/rollouts")


def events(bed, after=0):
    """Return the controller's events with a number above `after`, oldest first."""
    found = []
    # The end of the stream is an event of our own.
    name = f"mark-{os.urandom(4).hex()}"
    post(bed, "/v1/devices", {"id": name})
    with bed._http.stream("GET", "/v1/watch", params={"since": after}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                if event["subject"] == name:
                    break
                found.append(event)
    assert bed._http.delete(f"/v1/devices/{name}").status_code == 204
    return found


def post(bed, path, body):
    answer = bed._http.post(path, json=body)
    assert answer.is_success, answer.text
    return answer.json()


class Refusal(NamedTuple):
    """How the API says no: the status, the code, and words of the sentence that name the fault."""

    status: int
    code: str
    says: str


def check_refusal(answer, expected):
    """The API refuses as expected, in the one shape of all its refusals."""
    status, code, says = expected
    assert answer.status_code == status, (answer.status_code, answer.text[:500])
    body = answer.json()
    assert body.keys() == {"code", "message", "hint"}, body
    assert body["code"] == code, body
    assert says in body["message"], body
    assert body["message"], body
    assert "Traceback" not in answer.text


@dataclass
class Ended:
    """What came of a command."""

    code: int
    text: str


def run(folder, *argv, wrapper=()):
    """Run an installed program to its end."""
    done = subprocess.run(
        [*wrapper, BIN / argv[0], *argv[1:]],
        cwd=folder, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout)


def check_complaint(ended, *says, code=1):
    """A command ended with this exit code and a sentence that has all these words."""
    assert ended.code == code, ended
    for words in says:
        assert words in ended.text, ended
    assert "Traceback" not in ended.text, ended


def api(bed):
    """Return a client of the bed's API."""
    client: httpx.Client = bed._http
    return client


def chunk_topic(digest):
    return topics.Chunk(digest).text


def release(bed, version):
    return next(r for r in bed.get(f"/v1/models/{NAME}/releases") if r["version"] == version)


def chunks_of(bed, stranger, version):
    """Return the digests of all chunks of a release, the index first."""
    index = release(bed, version)["index"]
    payload = stranger.retained(chunk_topic(index))
    listed = json.loads(zstandard.ZstdDecompressor().decompress(payload))
    return [index, *(digest for pairs in listed["files"].values() for digest, _ in pairs)]


def directed(bed, order):
    """Return an order as a thief of the director's key publishes it: an online key, he has them all."""
    (path,) = bed.fleet_dir.rglob("director-*.pem")
    body = order if isinstance(order, bytes) else json.dumps(order).encode()
    signed = read_online(path).sign(signing_bytes(body))
    return seal(body, Signature(keyid=signed.keyid, sig=signed.signature))


class Stranger:
    """Somebody who has stolen the authority, and writes what he likes. A context manager."""

    def __init__(self, bed):
        self._port = bed._broker_port
        folder = bed.pki.root
        pair = KeyPair(folder / "stranger.key", folder / "stranger.pem")
        CertificateAuthority(bed.pki).issue_program(pair, AUDITOR_NAME, time.time_ns() // 1_000_000)
        self._files = [str(path) for path in (bed.pki.ca.certificate, pair.certificate, pair.key)]
        self._is_cut = threading.Event()

    def __enter__(self):
        self._is_cut.clear()
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id="stranger", protocol=mqtt.MQTTv311
        )
        self._client.tls_set(*self._files)
        self._client.on_disconnect = lambda *_: self._is_cut.set()
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        return self

    def __exit__(self, *_):
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic, payload, *, retain=False):
        """Return when the broker has it."""
        assert self.tries_to_publish(topic, payload, retain=retain), f"{topic}: refused"

    def tries_to_publish(self, topic, payload, *, retain=False):
        """Return whether the broker has taken it; one that cuts the connection instead has not."""
        if isinstance(payload, dict):
            payload = json.dumps(payload).encode()
        sent = self._client.publish(topic, payload, qos=1, retain=retain)

        def is_over():
            return sent.is_published() or self._is_cut.is_set()

        until(f"the broker answers to {topic!r}", is_over, timeout_s=DEADLINE_S)
        if sent.is_published():
            return True
        self.__exit__()  # the same client would send it again for ever
        self.__enter__()
        return False

    def retained(self, topic):
        """Return the payload of a topic as soon as there is one."""
        came = queue.SimpleQueue()
        self._client.message_callback_add(topic, lambda _c, _d, message: came.put(message.payload))
        self._client.subscribe(topic, qos=1)
        payload = came.get(timeout=DEADLINE_S)
        self._client.unsubscribe(topic)
        self._client.message_callback_remove(topic)
        return payload
