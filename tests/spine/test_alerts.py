"""Alerts of a real fleet: a webhook over HTTP, and the topic as `mosquitto_sub` reads it."""

import json
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter

import pytest

from tests.fleet.receivers import TAKEN, Hook
from tests.spine.processes import ENVIRONMENT
from tests.spine.soundness import absent

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = """
[alerts]
group_s = 0.5

[alerts.device_offline]
for_s = 2
clear_for_s = 1

[[alerts.webhook]]
url = "{url}"
"""


class Ear:
    """`mosquitto_sub` on the topic, with an observer's certificate of its own."""

    def __init__(self, bed):
        program = shutil.which("mosquitto_sub")
        if program is None:
            absent("mosquitto_sub (Debian's package mosquitto-clients)")
        bed.fleet("observer", "ear")
        folder = bed.fleet_dir
        found = {path.suffix: path for path in folder.rglob("ear*") if path.is_file()}
        self._path = folder / "heard.jsonl"
        self._file = self._path.open("w")
        self._process = subprocess.Popen(
            [
                # Its debug lines are written a line at a time only on a terminal.
                *(
                    "stdbuf",
                    "-oL",
                    program,
                    "-d",
                    "-h",
                    "127.0.0.1",
                    "-p",
                    str(bed._broker_port),
                    "-q",
                    "1",
                ),
                *("--cafile", bed.pki.ca.certificate, "--cert", found[".pem"]),
                *("--key", found[".key"], "-t", "fleet/v1/controller/alert"),
            ],
            stdout=self._file,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
        )
        try:
            bed.until("mosquitto_sub listens", lambda: "SUBACK" in self._text())
        except BaseException:
            self.stop()
            raise

    def _text(self):
        return self._path.read_text()

    def heard(self):
        return [json.loads(line) for line in self._text().splitlines() if line.startswith("{")]

    def stop(self):
        self._process.terminate()
        self._process.wait(20)
        self._file.close()


@pytest.fixture
def site(make_bed):
    """A fleet of two, a webhook that can be told to refuse, and a subscriber."""
    bed = make_bed("mosquitto")
    refusing = []
    with Hook(lambda _: (503, {}, b"not now") if refusing else TAKEN) as hook:
        bed.controller.end()
        with (bed.fleet_dir / "fleet.toml").open("a") as file:
            file.write(SETTINGS.format(url=hook.url))
        bed.start_controller()
        bed.until_connected()
        bed.add("cam-0", "cam-1")
        ear = Ear(bed)
        yield bed, hook, ear, refusing
        ear.stop()


def told(hook):
    """Return how often the webhook was told of each."""
    return Counter(
        (alert["labels"]["subject"], body["status"])
        for _, body in hook.requests
        for alert in body["alerts"]
    )


def heard(ear):
    return Counter((alert["subject"], body["status"]) for body in ear.heard() for alert in body["alerts"])  # fmt: skip


def until_noted(bed):
    """Return when the controller knows that every receiver has what was told."""

    def is_noted():
        with sqlite3.connect(f"file:{bed.fleet_dir}/store/fleet.db?mode=ro", uri=True) as raw:
            return raw.execute("SELECT count(*) FROM deliveries").fetchone() == (0,)

    bed.until("the deliveries are noted", is_noted)


def restart(bed):
    """Kill the controller as nothing else does, and start it again."""
    bed.controller.end(signal.SIGKILL)
    bed.start_controller()
    bed.until_connected()


def alerts(bed):
    return {alert["subject"]: alert for alert in bed.get("/v1/alerts")}


def test_a_device_that_vanishes_is_told_once_and_its_return_once(site):
    bed, hook, ear, _ = site
    bed.devices["cam-0"].end(signal.SIGKILL)
    hook.wait_for(1)
    bed.until("the topic says it", ear.heard)
    until_noted(bed)
    restart(bed)
    bed.devices["cam-0"].start()
    hook.wait_for(2)
    bed.until("the topic says it", lambda: len(ear.heard()) == 2)
    until_noted(bed)
    # killed while it is only pending
    bed.devices["cam-1"].end(signal.SIGKILL)
    bed.until("it is known", lambda: "cam-1" in alerts(bed))
    restart(bed)
    hook.wait_for(3)
    until_noted(bed)
    restart(bed)
    bed.devices["cam-1"].start()
    hook.wait_for(4)
    bed.until("the topic says it", lambda: len(ear.heard()) == 4)
    once = {(f"cam-{n}", status): 1 for n in (0, 1) for status in ("firing", "resolved")}
    assert told(hook) == heard(ear) == once
    (body, *_), message = [body for _, body in hook.requests], ear.heard()[0]
    assert body["version"] == "4"
    assert body["alerts"][0]["fingerprint"] == message["alerts"][0]["fingerprint"]
    assert body["commonAnnotations"]["summary"] == message["summary"]


def test_what_a_dead_webhook_did_not_take_is_there_after_a_kill(site):
    bed, hook, ear, refusing = site
    refusing.append("yes")
    bed.devices["cam-0"].end(signal.SIGKILL)
    hook.wait_for(1)
    bed.until("the topic says it", ear.heard)  # it is held up by nobody
    restart(bed)
    hook.wait_for(2)
    refusing.clear()
    refused = len(hook.requests)
    hook.wait_for(refused + 1)
    keys = {headers["idempotency-key"] for headers, _ in hook.requests}
    assert len(keys) == 1
    assert heard(ear) == {("cam-0", "firing"): 1}


def test_a_silence_and_an_acknowledgement_hold_back(site):
    bed, hook, ear, _ = site
    bed.fleet("alert", "silence", "--subject", "cam-0", "--for", "1h", "--why", "a test")
    bed.devices["cam-0"].end(signal.SIGKILL)
    bed.until("it fires", lambda: alerts(bed).get("cam-0", {}).get("state") == "firing")
    assert "firing, silenced" in bed.fleet("alerts")
    bed.devices["cam-1"].end(signal.SIGKILL)
    hook.wait_for(1)
    bed.fleet("alert", "acknowledge", str(alerts(bed)["cam-0"]["id"]))
    (silence,) = bed.get("/v1/silences")
    bed.fleet("alert", "unsilence", str(silence["id"]))
    assert "known to admin" in bed.fleet("alerts")
    for name in "cam-0", "cam-1":
        bed.devices[name].start()
    hook.wait_for(2)
    bed.until("the topic says it", lambda: len(ear.heard()) == 2)
    bed.until("all is over", lambda: not alerts(bed))
    once = {("cam-1", "firing"): 1, ("cam-1", "resolved"): 1}
    assert told(hook) == heard(ear) == once
    said = bed.fleet("alert", "test")
    assert "200 OK thanks" in said
    assert "the broker has it" in said
    log = [row["what"] for row in bed.get("/v1/audit")]
    assert {"POST /v1/silences", "POST /v1/alerts/{alert}/acknowledge"} <= set(log)
