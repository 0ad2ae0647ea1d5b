"""The bed: a whole fleet of installed programs on loopback, each of which can be killed alone."""

import json
import os
import signal
import subprocess

import httpx

from fleet.broker import BrokerProcess, find_broker
from fleet.pki.folder import PkiFolder
from tests.spine.client import Client, ask_once
from tests.spine.models import NAME
from tests.spine.observer import Observer
from tests.spine.processes import BIN, ENVIRONMENT, Program, free_port, until
from wire.bundle import read_bundle

MAX_RECORDS = 1000
"""What the API gives of a device's records at once."""
TAIL = 6000
"""Characters of a log that are told when something was waited for in vain."""


class Device(Program):
    """An agent, and an application that asks it all the time."""

    def __init__(self, name, port, folder):
        super().__init__(name, ["fleet-agent", "run", "--config", f"{name}.toml"], folder)
        self.port = port
        self.client = Client(name, port)

    def runtimes(self):
        """Return the runtimes there are, oldest first: one, or two around a swap."""
        return self.children("agent.runtime")

    def ask(self, feature=1.0):
        """Return the answer to one request over a connection of its own."""
        return ask_once(self.port, feature)

    def situation(self):
        """Say whether it lives, what its client got last, and how its log ends."""
        alive = f"lives, with {len(self.runtimes())} runtimes" if self.is_alive else "is dead"
        asker = "" if self.client.is_alive() else ", and its client has ended"
        log = self.log.read_text("utf-8", "replace")[-TAIL:] if self.log.exists() else ""
        return f"{self.name} {alive}{asker}; last answers {self.client.answers[-2:]}; log:\n{log}"


class Bed:
    """Broker, controller and devices of one test.

    Args:
        folder: For everything; made here.
        kind: mosquitto or nats.
        bundles: Gives the bundle of a version.
        is_split: Whether the bed keeps the broker and runs `fleet controller run`; otherwise
            `fleet up` has both, and keeps the broker.
        store_url: Of a PostgreSQL for the store; SQLite without one.
    """

    def __init__(self, folder, kind, bundles, *, is_split, store_url=None):
        self.fleet_dir = folder / "myfleet"
        self.devices = {}
        self._folder = folder
        self._bundles = bundles
        self._broker_port = free_port()
        self._program = find_broker(kind)
        self._broker = None
        self._broker_pid_file = folder / "broker.pid"
        self._broker_count = 0
        self._is_split = is_split
        self._store = ("--store", store_url) if store_url is not None else ()
        self.api_address = f"127.0.0.1:{free_port()}"
        self._http = httpx.Client(
            base_url=f"http://{self.api_address}", timeout=120, trust_env=False
        )
        self.pki = PkiFolder(self.fleet_dir / "store/pki")
        self.observer = Observer(self._broker_port, self.pki.root)
        argv = ["fleet", "controller", "run"] if is_split else ["fleet", "up"]
        self.controller = Program("controller", argv, self.fleet_dir)

    # -- broker and controller

    def start(self):
        """Make the fleet and start broker, controller and observer; return when all are there."""
        self._folder.mkdir(parents=True)
        url = f"mqtts://127.0.0.1:{self._broker_port}"
        devices = f"127.0.0.1:{free_port()}"
        listen = ("--listen", self.api_address, "--devices", devices, *self._store)
        if self._is_split:
            self.fleet("init", "myfleet", *listen, "--broker", url)
            path = self.fleet_dir / "fleet.toml"
            command = json.dumps(["sh", "-c", f"kill -HUP $(cat '{self._broker_pid_file}')"])
            path.write_text(path.read_text().replace("[api]", f"reload = {command}\n\n[api]"))
        else:
            kind = self._program.kind
            self.fleet("init", "myfleet", *listen, "--broker-kind", kind)
            path = self.fleet_dir / "fleet.toml"
            lines = path.read_text().splitlines()
            # The port that `init` found free may be another test's a moment later.
            own = [f'url = "{url}"' if line.startswith("url =") else line for line in lines]
            path.write_text("\n".join(own))
        if self._is_split:
            self.start_broker()
        token = (self.fleet_dir / "admin.token").read_text().strip()
        self._http.headers["authorization"] = f"Bearer {token}"
        self.start_controller()
        self.observer.start()

    def start_broker(self, *, is_empty=False):
        """Start the bed's own broker, with what it had on disk or with nothing."""
        if self._broker is None or is_empty:
            self._broker_count += 1
            folder = self._folder / f"broker-{self._broker_count}"
            self._broker = BrokerProcess(self._program, self._broker_port, folder, pki=self.pki)
        self._broker.start()
        self._broker_pid_file.write_text(str(self._broker.pid))

    def kill_broker(self):
        """Kill the broker; the keeper in `fleet up` starts its own again, the bed's stays away."""
        if self._is_split:
            os.kill(self._broker.pid, signal.SIGKILL)
            self._broker.stop()
            return
        (broker,) = self.controller.children(self._program.path.name)
        broker.kill()

    def start_controller(self):
        """Start the controller and return when it answers, with or without the broker."""
        self.controller.start()
        self.until("the API answers", lambda: self._http.get("/v1/health"))

    def set_drift(self, *, window_s):
        """Have the controller judge windows in slots of this length, from a new start on."""
        self.controller.end()
        with (self.fleet_dir / "fleet.toml").open("a") as file:
            file.write(f"\n[drift]\nwindow_s = {window_s}\n")
        self.start_controller()

    def until_connected(self):
        """Return when the controller is connected to the broker."""
        self.until("the controller is connected", lambda: self._http.get("/v1/status").is_success)

    # -- devices

    def add(self, *names, telemetry_s=1, window_s=900, more=""):
        """Add devices that report telemetry and windows this often, start their agents and their clients; return when all are online.

        `more` is added to their files.
        """
        adding = []
        for name in names:
            device = Device(name, free_port(), self.fleet_dir)
            self.devices[name] = device
            command = ["device", "add", name, "--tag", "site=lab", "--output", f"{name}.toml"]
            adding.append(self._spawn(*command, "--listen", f"127.0.0.1:{device.port}"))
        for command in adding:
            _finish(command)
        for name in names:
            with (self.fleet_dir / f"{name}.toml").open("a") as file:
                file.write(f"\n[telemetry]\ninterval_s = {telemetry_s}\n")
                file.write(f"window_s = {window_s}\n{more}")
            self.devices[name].start()
            self.devices[name].client.start()
        for name in names:
            self.until_online(name)

    def until_online(self, name, *, is_online=True):
        """Return when the controller has a device online, or offline."""
        wanted = "online" if is_online else "offline"
        self.until(f"{name} is {wanted}", lambda: self.device(name)["state"] == wanted)

    # -- what an operator does and sees

    def fleet(self, *args):
        """Run `fleet ARGS` to its good end and return what it printed."""
        return _finish(self._spawn(*args))

    def push(self, version):
        """Make the bundle of a version a signed release; return its manifest's digest."""
        return self.push_file(self._bundles.path(version))

    def push_file(self, path):
        """Push a bundle; return its manifest's digest."""
        self.fleet("push", str(path))
        return read_bundle(path).manifest_digest

    def roll_out(
        self, version, *, site="lab", phases=("100%",), soak_s=0.0, min_s=1.0, max_s=600.0
    ):
        """Start a rollout of a pushed version and return its id."""
        body = {
            "model": NAME,
            "version": version,
            "match": {"site": site},
            "phases": list(phases),
            "soak_s": soak_s,
            "probation": {"min_s": min_s, "max_s": max_s, "min_inferences": 1},
        }
        started = self._http.post("/v1/rollouts", json=body)
        assert started.is_success, started.text
        return started.json()["id"]

    def command(self, rollout, verb):
        """Pause, resume or abort a rollout."""
        answer = self._http.post(f"/v1/rollouts/{rollout}/{verb}")
        assert answer.is_success, answer.text

    def give_labels(self, device, model, labels):
        """Have the controller send labels to a device."""
        path = f"/v1/devices/{device}/models/{model}/feedback"
        answer = self._http.post(path, json={"labels": labels})
        assert answer.status_code == 202, answer.text

    def install(self, version):
        """Push a version and roll it out to everybody, undisturbed."""
        self.push(version)
        ended = self.until_ended(self.roll_out(version))
        assert ended["state"] == "finished", ended["reason"]

    def get(self, path):
        """Return what the API answers.

        Raises:
            httpx.TransportError: The controller is away.
        """
        answer = self._http.get(path)
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def rollout(self, rollout):
        return self.get(f"/v1/rollouts/{rollout}")

    def members(self, rollout):
        """Return each member of a rollout by its device."""
        return {member["device"]: member for member in self.rollout(rollout)["members"]}

    def device(self, name):
        return self.get(f"/v1/devices/{name}")

    def model(self, name):
        """Return where a device stands with the model, as the controller knows it."""
        return next((m for m in self.device(name)["models"] if m["name"] == NAME), {})

    def stored(self):
        """Return every record in the store, newest first, as (device, boot, seq) and the rest."""
        rows = []
        for name in self.devices:
            part = self.get(f"/v1/devices/{name}/records?limit={MAX_RECORDS}")
            assert len(part) < MAX_RECORDS, f"{name} has more records than the API gives at once"
            rows += [((name, row["boot"], row["seq"]), row) for row in part]
        return rows

    def updates(self, name):
        """Return the events of a device's updates that are in the store, oldest first."""
        rows = self.get(f"/v1/devices/{name}/records?channel=event/update&limit={MAX_RECORDS}")
        return sorted((row["body"] for row in rows), key=lambda body: body["at_unix_ms"])

    def until_ended(self, rollout):
        """Return a rollout when it has ended."""

        def ended():
            found = self.rollout(rollout)
            return found if found["state"] not in ("running", "paused") else None

        return self.until(f"{rollout} ends", ended)

    def until_served(self, name, version):
        """Return when a device's client gets answers of a version, from now on."""
        asked = len(self.devices[name].client.answers)

        def is_served():
            return version in {a.version for a in self.devices[name].client.answers[asked:]}

        self.until(f"{name} answers with {version}", is_served)

    def until(self, what, probe, **limits):
        """See `processes.until`; tells where the rollouts stand when it was in vain."""

        def words():
            return f"{what() if callable(what) else what}\n{self._situation()}"

        return until(words, probe, **limits)

    # -- the end

    def end(self):
        """Ask everything to end; return the exit codes of agents and controller."""
        for device in self.devices.values():
            device.client.stop()
        programs = [p for p in (*self.devices.values(), self.controller) if p.is_alive]
        return {program.name: program.end() for program in programs}

    def tracebacks(self):
        """Return the logs in which a program tells of an error that it did not expect."""
        logs = [program.log for program in (*self.devices.values(), self.controller)]
        return [
            log.name for log in logs if log.exists() and "Traceback" in log.read_text("utf-8", "replace")
        ]  # fmt: skip

    def put_away(self):
        """End everything, whatever state it is in, and print what it wrote."""
        for device in self.devices.values():
            device.client.stop()
        for program in (*self.devices.values(), self.controller):
            program.put_away()
        self.observer.stop()
        if self._broker is not None:
            self._broker.stop()
        self._http.close()
        for log in sorted(self._folder.rglob("*.log")):
            text = log.read_text("utf-8", "replace")[-TAIL:]
            print(f"===== {log.relative_to(self._folder)}\n{text}")  # noqa: T201 - for failures

    def _situation(self):
        told = [device.situation() for device in self.devices.values()]
        try:
            told += [
                f"{row['id']} {row['version']} {row['state']}: {row['reason']}; {row['counts']}"
                for row in self.get("/v1/rollouts")
            ]
        except httpx.TransportError as exc:
            told.append(f"the controller does not answer: {exc}")
        return "\n".join(told)

    def _spawn(self, *args):
        return subprocess.Popen(
            [BIN / "fleet", *args],
            cwd=self.fleet_dir if self.fleet_dir.exists() else self._folder,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def _finish(command):
    printed, _ = command.communicate(timeout=180)
    assert command.returncode == 0, f"{command.args} ended with {command.returncode}: {printed}"
    return printed
