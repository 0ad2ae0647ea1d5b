"""What we are compared with: MLServer in an environment of its own, and a bare uvicorn."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import sys
from pathlib import Path

from fleets import DIGITS_INFER, fetch_json
from load import Asker, request_bytes
from models import Models
from programs import (
    BENCHMARKS,
    BIN,
    ROOT,
    BenchError,
    Program,
    free_ports,
    fresh_directory,
    run,
    wait_for,
)

PEER = BENCHMARKS / "peer"
PINS = PEER / "requirements.txt"
VENV = ROOT / "build" / "peer-venv"
NAME = "MLServer"


def peer_versions() -> dict[str, str]:
    """Return the peer and its pinned version, or that it could not be had."""
    if not (VENV / "installed").exists():
        return {NAME: "could not be installed here: its columns are empty"}
    version = next(
        line.partition("==")[2] for line in PINS.read_text().split() if line.startswith("mlserver=")
    )
    return {NAME: version}


def install() -> None:
    """Make the peer's environment; its dependencies conflict with ours. Kept between runs.

    Raises:
        BenchError: It cannot be installed here; the message says what failed.
    """
    stamp = VENV / "installed"
    digest = hashlib.sha256(PINS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    print(f"installing {NAME} into {VENV.relative_to(ROOT)} …", flush=True)
    shutil.rmtree(VENV, ignore_errors=True)
    run([sys.executable, "-m", "venv", VENV], cwd=ROOT)
    pip = [VENV / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--no-deps", "-r", PINS], cwd=ROOT)
    stamp.write_text(digest)


def open_peer(directory: Path, models: Models) -> MlServer | None:
    """Return the peer ready to start, or None where it cannot be installed; that is printed."""
    try:
        install()
    except BenchError as exc:
        print(f"{NAME} cannot be installed here, so its columns stay empty: {exc}")
        return None
    return MlServer(directory, models)


class MlServer:
    """The peer, serving the digits from the same ONNX file, all in one process.

    `parallel_workers` is 0: its default of one worker process costs memory and latency, and gives
    nothing to a model that answers in microseconds.
    """

    def __init__(self, directory: Path, models: Models, *, version: str = "1.0.0") -> None:
        self._directory = fresh_directory(directory)
        self._body = models.digits_body()
        self.port, grpc, metrics = free_ports(3)
        settings = {
            "debug": False,
            "host": "127.0.0.1",
            "http_port": self.port,
            "grpc_port": grpc,
            "metrics_port": metrics,
            "parallel_workers": 0,
        }
        model = {
            "name": "digits",
            "implementation": "onnx_model.OnnxModel",
            "parameters": {"uri": "./model.onnx", "version": version},
        }
        folder = directory / "digits"
        folder.mkdir()
        (directory / "settings.json").write_text(json.dumps(settings))
        (folder / "model-settings.json").write_text(json.dumps(model))
        shutil.copy(models.digits_onnx(), folder / "model.onnx")
        shutil.copy(PEER / "onnx_model.py", directory)

    def start(self) -> Program:
        """Start it and return at once."""
        env = {"PYTHONPATH": str(self._directory), "ORT_DISABLE_TELEMETRY": "1"}
        argv = [VENV / "bin" / "mlserver", "start", self._directory]
        return Program("mlserver", argv, cwd=self._directory, env=env)

    def wait_until_ready(self, program: Program) -> None:
        """Return when the model answers that it is there."""
        path = "/v2/models/digits/ready"
        wait_for(
            "the peer's model",
            lambda: fetch_json(self.port, path)[0] == http.client.OK,
            program=program,
        )

    def asker(self) -> Asker:
        """Return who can ask it, with our own request."""
        return Asker(self.port, request_bytes(DIGITS_INFER, self._body))

    def reload(self) -> None:
        """Have it load its model again beside the one that serves: its own way to swap."""
        status, body = fetch_json(self.port, "/v2/repository/models/digits/load", method="POST")
        if status != http.client.OK:
            raise BenchError(f"{NAME} did not load its model again: {status} {body}")


def start_echo(directory: Path, answer: bytes) -> tuple[Program, int]:
    """Start a bare uvicorn with our event loop and parser; return it and its port."""
    fresh_directory(directory)
    (directory / "answer.json").write_bytes(answer)
    port = free_ports(1)[0]
    argv = [BIN / "uvicorn", "echo_app:app", "--port", str(port), "--app-dir", PEER]
    argv += ["--loop", "uvloop", "--http", "httptools", "--ws", "none", "--lifespan", "off"]
    argv += ["--no-access-log", "--no-server-header", "--no-proxy-headers"]
    env = {"ECHO_ANSWER": str(directory / "answer.json")}
    program = Program("echo", argv, cwd=directory, env=env)
    wait_for("the echo", lambda: fetch_json(port, "/")[0] == http.client.OK, program=program)
    return program, port
