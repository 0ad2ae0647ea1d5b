"""The installed programs on loopback, driven as an operator would: commands, files, HTTP."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clients import get
from processes import DemoError, Journal, ProcessWatch, Service, free_port, started_ticks, wait_for

DEVICES = ("cam-01", "cam-02", "cam-03")
TELEMETRY_INTERVAL_S = 2
WINDOW_S = 5
"""How often inputs and answers are held against the baseline; 15 minutes unless somebody says so."""
SETTINGS = f"""
[drift]
window_s = {WINDOW_S}

[alerts]
accuracy_low = {{ models = {{ digits = 0.88 }} }}
"""


class Stage:
    """Broker, controller and agents of one demo, in one directory that can be thrown away.

    Attributes:
        work: The directory.
        fleet_dir: Where `fleet.toml` is; every command runs there.
    """

    def __init__(self, bin_dir: Path, work: Path, journal: Journal) -> None:
        self.work = work
        self.fleet_dir = work / "myfleet"
        self.journal = journal
        self.watch = ProcessWatch(journal.now_s)
        self._bin = bin_dir
        self._env = {**os.environ, "PATH": f"{bin_dir}{os.pathsep}{os.environ.get('PATH', '')}"}
        self._controller: Service | None = None
        self._agents: dict[str, Service] = {}
        self._watcher: Service | None = None
        self._listen: dict[str, str] = {}
        self._api = f"127.0.0.1:{free_port()}"

    # -- commands

    def fleet(
        self, *args: str, name: str = "", expect: Sequence[int] = (0,), timeout_s: float = 120
    ) -> str:
        """Run `fleet ARGS` and return what it printed."""
        cwd = self.fleet_dir if self.fleet_dir.exists() else self.work
        return self.journal.run(
            [str(self._bin / "fleet"), *args],
            name=name or " ".join(args[:2]),
            cwd=cwd,
            env=self._env,
            expect=expect,
            timeout_s=timeout_s,
        )

    def python(self, script: Path, *args: str) -> str:
        """Run a Python script with the interpreter of the environment under test."""
        python = self._bin / "python"
        return self.journal.run(
            [str(python if python.exists() else sys.executable), str(script), *args],
            name=script.name,
            cwd=self.fleet_dir,
            env=self._env,
        )

    # -- programs

    def start_controller(self, broker: str | None) -> str:
        """Make a fleet, start broker, controller and API, and return the broker's URL."""
        self.fleet("init", "myfleet", *self._init_options(broker))
        with (self.fleet_dir / "fleet.toml").open("a") as file:
            file.write(SETTINGS)
        self._controller = self._start("fleet up", "fleet", "up")
        health = wait_for("the API", self._health, services=(self._controller,))
        return str(health["broker_url"])

    @property
    def certificates(self) -> Path:
        """The folder with the observer's certificate that `fleet init` made."""
        return self.fleet_dir / "store/pki"

    def add_observer(self, name: str) -> Path:
        """Let somebody else watch too, and return the folder with the files that it takes."""
        self.fleet("observer", name, "--output", str(self.work))
        return self.work

    def add_device(self, device: str) -> None:
        """Register a device, with sockets of its own, and keep its configuration file."""
        address, socket = f"127.0.0.1:{free_port()}", self.work / f"{device}.sock"
        self.fleet(
            *("device", "add", device, "--tag", "site=lab", "--output", f"{device}.toml"),
            *("--listen", address, "--socket", str(socket)),
        )
        self._listen[device] = address
        path = self.fleet_dir / f"{device}.toml"
        text = path.read_text()
        if "telemetry" not in tomllib.loads(text):
            path.write_text(
                f"{text}\n[telemetry]\ninterval_s = {TELEMETRY_INTERVAL_S}\nwindow_s = {WINDOW_S}\n"
            )

    def start_agent(self, device: str) -> None:
        """Start the agent of a device and watch its children."""
        agent = self._start(device, "fleet-agent", "run", "--config", f"{device}.toml")
        self._agents[device] = agent
        self.watch.add(device, agent.pid)

    def wait_until_live(self) -> None:
        """Return when every agent answers on its port and the controller has it online."""
        for device, agent in self._agents.items():
            wait_for(
                f"{device} to answer",
                lambda device=device: get(self._listen[device], "/v2/health/live")[0] == 200,
                services=(agent,),
            )
            wait_for(
                f"{device} to be online",
                lambda device=device: self.device(device)["state"] == "online",
                services=(agent,),
            )

    def addresses(self, device: str) -> tuple[str, str]:
        """Return where a device's applications ask: TCP and unix socket."""
        return self._listen[device], str(self.work / f"{device}.sock")

    def check_alive(self) -> None:
        """Raise when one of the programs has ended by itself."""
        for service in self.services():
            service.check_alive()

    def services(self) -> list[Service]:
        """Return everything that runs in the background, agents first."""
        others = (self._controller, self._watcher)
        return [*self._agents.values(), *(one for one in others if one is not None)]

    def processes(self, step: str) -> dict[str, Any]:
        """Return the agents and their children as they are now; ids come with start times."""
        runtimes: dict[str, list[list[int]]] = {device: [] for device in self._agents}
        for device, pid, started in self.watch.present():
            runtimes[device].append([pid, started])
        supervisors = {d: [a.pid, started_ticks(a.pid)] for d, a in self._agents.items()}
        return {"step": step, "supervisors": supervisors, "runtimes": runtimes}

    @property
    def watcher(self) -> Service:
        """What trains a project again; `start_watcher` has started it."""
        assert self._watcher is not None
        return self._watcher

    def start_watcher(self, folder: str) -> None:
        """Have the triggers of a project look, once a second."""
        self._watcher = self._start("retrain", "fleet", "retrain", "watch", folder, "--every", "1s")

    def stop_watcher(self) -> None:
        """End it in order, as Ctrl-C does."""
        self.watcher.stop()
        self._watcher = None

    def stop_agents(self) -> dict[str, int | None]:
        """Ask the agents to end and return their exit codes."""
        return {device: agent.stop() for device, agent in self._agents.items()}

    def stop_controller(self) -> dict[str, int | None]:
        """Ask controller and broker to end and return the exit code."""
        return {"fleet up": self._controller.stop()} if self._controller else {}

    def stop_everything(self) -> None:
        """End what still runs, whatever state it is in. Idempotent."""
        for service in self.services():
            service.stop(timeout_s=20)
        if self.watch.is_alive():
            self.watch.stop()

    # -- API

    def api(self, path: str) -> Any:
        """Return what the controller's API answers.

        Raises:
            DemoError: Anything but 200.
        """
        status, body = get(self._api, path, token=self._token())
        if status != 200:
            raise DemoError(f"GET {path} of the API answered {status}: {body}")
        return body

    def device(self, device: str) -> dict[str, Any]:
        """Return a device as the controller knows it."""
        return dict(self.api(f"/v1/devices/{device}"))

    def devices(self) -> dict[str, dict[str, Any]]:
        """Return all devices as the controller knows them."""
        return {device: self.device(device) for device in self._agents}

    def records(self, device: str) -> list[dict[str, Any]]:
        """Return every event and piece of telemetry of a device that the store has."""
        return list(self.api(f"/v1/devices/{device}/records?limit=1000"))

    def rollout(self, version: str) -> dict[str, Any]:
        """Return the newest rollout of a version, with its members."""
        ids = [row["id"] for row in self.api("/v1/rollouts") if row["version"] == version]
        return dict(self.api(f"/v1/rollouts/{ids[0]}"))

    def findings(self) -> list[dict[str, Any]]:
        """Return what has drifted now."""
        return list(self.api("/v1/drift"))

    def drift(self, model: str, version: str, device: str) -> dict[str, Any]:
        """Return how what a release was asked and answered on a device lies beside its baseline."""
        path = f"/v1/models/{model}/drift?version={version}&device={device}&since_s=3600"
        return dict(self.api(path))

    def _health(self) -> dict[str, Any] | None:
        status, body = get(self._api, "/v1/status", token=self._token())
        return body if status == 200 else None

    def _token(self) -> str:
        return (self.fleet_dir / "admin.token").read_text().strip()

    def _start(self, name: str, program: str, *args: str) -> Service:
        self.journal.say(f"   $ {program} {' '.join(args)} &")
        return Service(
            name,
            [str(self._bin / program), *args],
            cwd=self.fleet_dir,
            env=self._env,
            log=self.work / f"{name.replace(' ', '-')}.log",
        )

    def _init_options(self, broker: str | None) -> list[str]:
        return ["--listen", self._api, *(["--broker-kind", broker] if broker else [])]
