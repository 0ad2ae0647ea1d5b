"""A fleet of real programs for one benchmark: broker, controller and agents, used as a person would."""

from __future__ import annotations

import http.client
import json
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import psutil
from load import Asker, request_bytes
from models import Models
from programs import BIN, HOST, Program, free_ports, fresh_directory, run, wait_for

from wire.endpoint import TlsFiles

DIGITS_INFER = "/v2/models/digits/infer"


def fetch_json(port: int, path: str, *, method: str = "GET", token: str = "") -> tuple[int, Any]:
    """Return status and body; status 0 when nobody answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.strip() else None
    except (OSError, http.client.HTTPException, ValueError):
        return 0, None
    finally:
        connection.close()


class Fleet:
    """Broker, controller and agents in one directory; everything ends with the `with` block.

    Attributes:
        directory: Where `fleet.toml` is.
        broker_port: Of MQTT.
        ports: Where each device answers, by its name.
        agents: Those that run, by device.
    """

    def __init__(
        self,
        directory: Path,
        broker: str = "auto",
        *,
        is_open: bool = False,
        store_url: str | None = None,
    ) -> None:
        """Take note of what to start; an open broker asks for no certificate and encrypts nothing.

        The store is SQLite, or PostgreSQL where there is a URL.
        """
        self.directory = directory / "fleet"
        self._broker = broker
        self._scheme = "mqtt" if is_open else "mqtts"
        self._store = ["--store", store_url] if store_url is not None else []
        self._api_port, self.broker_port = free_ports(2)
        self.ports: dict[str, int] = {}
        self.agents: dict[str, Program] = {}
        fresh_directory(directory)

    def __enter__(self) -> Self:
        init = [BIN / "fleet", "init", self.directory, "--broker-kind", self._broker, *self._store]
        run([*init, "--listen", f"{HOST}:{self._api_port}"], cwd=self.directory.parent)
        settings = self.directory / "fleet.toml"
        lines = [
            f'url = "{self._scheme}://{HOST}:{self.broker_port}"'
            if line.startswith('url = "mqtt')
            else line
            for line in settings.read_text().splitlines()
        ]
        settings.write_text("\n".join(lines) + "\n")
        self.controller = Program("fleet up", [BIN / "fleet", "up"], cwd=self.directory)
        try:
            wait_for("the API", lambda: self.api("/v1/status"), program=self.controller)
        except BaseException:
            self.controller.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_agents()
        self.controller.stop()

    def watcher(self, name: str) -> TlsFiles:
        """Return the files with which one more program may read every topic."""
        self.command("observer", name, "--output", self.directory)
        return TlsFiles(
            *(self.directory / file for file in ("ca.pem", f"{name}.pem", f"{name}.key"))
        )

    def command(self, *args: str | Path) -> str:
        """Run `fleet ARGS` and return what it printed."""
        return run([BIN / "fleet", *args], cwd=self.directory)

    def api(self, path: str) -> Any:
        """Return what the controller's API answers, None when it does not."""
        token = (self.directory / "admin.token").read_text().strip()
        status, body = fetch_json(self._api_port, path, token=token)
        return body if status == http.client.OK else None

    def push(self, bundle: Path) -> None:
        """Register a bundle, and return when the broker has all its chunks."""
        self.command("push", bundle)

    def add_devices(
        self, names: Sequence[str], *, tag: str = "fleet", serve: str = "", telemetry_s: int = 60
    ) -> None:
        """Register devices and write their configurations.

        Args:
            names: Their ids; each also becomes the tag `name`.
            tag: The value of the tag `group`.
            serve: Further lines for `[serve]`.
            telemetry_s: Length of their telemetry windows.
        """
        table = self.directory / "devices.csv"
        rows = [f"{name},{tag},{name}" for name in names]
        table.write_text("\n".join(["id,group,name", *rows]) + "\n")
        folder = self.directory / "agents"
        self.command("device", "add", "--from", table, "--output-dir", folder)
        for name, port in zip(names, free_ports(len(names)), strict=True):
            path = folder / f"{name}.toml"
            text = path.read_text().replace("127.0.0.1:8600", f"{HOST}:{port}")
            text = text.replace("[serve]\n", f"[serve]\n{serve}\n")
            text = f"{text}\n[telemetry]\ninterval_s = {telemetry_s}\n"
            if self._scheme == "mqtt":  # nobody is let in there, so nobody is handed the root
                text = f'{text}\n[trust]\nroot = "{self.directory / "root.json"}"\n'
            path.write_text(text)
            self.ports[name] = port

    def configuration(self, device: str) -> Path:
        """Return a device's file."""
        return self.directory / "agents" / f"{device}.toml"

    def start_agent(self, device: str) -> Program:
        """Start a device's agent and return at once."""
        argv = [BIN / "fleet-agent", "run", "--config", self.configuration(device)]
        self.agents[device] = Program(device, argv, cwd=self.directory)
        return self.agents[device]

    def wait_until_online(self, devices: Sequence[str], *, timeout_s: float = 120) -> None:
        """Return when the controller has all these devices online and their runtimes answer."""
        for device in devices:
            for what, probe in (("answer", self._answers), ("be online", self._is_online)):
                wait_for(
                    f"{device} to {what}",
                    partial(probe, device),
                    program=self.agents[device],
                    timeout_s=timeout_s,
                )

    def _answers(self, device: str) -> bool:
        return fetch_json(self.ports[device], "/v2/health/live")[0] == http.client.OK

    def _is_online(self, device: str) -> bool:
        return bool(self.device(device)["state"] == "online")

    def device(self, name: str) -> dict[str, Any]:
        """Return a device as the controller knows it."""
        return dict(self.api(f"/v1/devices/{name}"))

    def start_rollout(self, release: str, *, match: str, **options: str) -> float:
        """Start a rollout that confirms as soon as it can; return when that was asked, monotonic.

        Args:
            release: NAME:VERSION.
            match: KEY=VALUE.
            options: Further options of `fleet rollout start`.
        """
        wanted = {
            "phases": "100%",
            "soak": "0s",
            "probation-min": "0s",
            "min-inferences": "1",
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        flags = [part for name, value in wanted.items() for part in (f"--{name}", value)]
        began_s = time.monotonic()
        self.command("rollout", "start", release, "--match", match, *flags)
        return began_s

    def wait_until_confirmed(
        self, devices: Sequence[str], version: str, *, keep_busy: Callable[[], object] | None = None
    ) -> None:
        """Return when every device has confirmed a version.

        Args:
            devices: Which.
            version: Of their only model.
            keep_busy: Called between two looks, to send the requests that a probation wants.
        """

        def is_done(device: str) -> bool:
            if keep_busy is not None:
                keep_busy()
            return any(
                model["active_version"] == version and model["state"] == "idle"
                for model in self.device(device)["models"]
            )

        for device in devices:
            wait_for(
                f"{device} to confirm {version}",
                partial(is_done, device),
                timeout_s=120,
                program=self.agents[device],
            )

    def serve_digits(self, models: Models, device: str, version: str = "1.0.0") -> Asker:
        """Start a device's agent, have it confirm the digits, and return who can ask it.

        The bundle must have been pushed.
        """
        self.start_agent(device)
        self.wait_until_online([device])
        asker = Asker(self.ports[device], request_bytes(DIGITS_INFER, models.digits_body()))
        self.start_rollout(f"digits:{version}", match=f"name={device}")
        self.wait_until_confirmed([device], version, keep_busy=asker.ask)
        return asker

    def withhold_chunks(self) -> None:
        """Have a mosquitto give no chunk to devices, until it is told who may do what anew."""
        rights = self.directory / "store/pki/mosquitto.acl"
        rights.write_text(rights.read_text().replace("pattern read fleet/v1/chunk/+\n", ""))
        (broker,) = psutil.Process(self.controller.pid).children()
        broker.send_signal(signal.SIGHUP)

    def stop_agent(self, device: str) -> None:
        """End one agent."""
        self.agents.pop(device).stop()

    def stop_agents(self) -> None:
        """End all agents side by side. Idempotent."""
        for agent in self.agents.values():
            agent.ask_to_stop()
        for agent in self.agents.values():
            agent.stop()
        self.agents.clear()
