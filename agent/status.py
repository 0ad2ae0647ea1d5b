"""What `fleet-agent status` shows: the state on disk, and whether the runtime answers."""

from __future__ import annotations

import errno
import http.client
import json
import re
import socket
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from wire.errors import ConfigError, StorageError
from wire.ids import VERSION_PATTERN
from wire.manifest import TensorSpec
from wire.messages import Inventory

from .adapters.bootstrap import is_root_on_trust
from .adapters.capture_ring import NAME as RING
from .adapters.capture_ring import peek as peek_ring
from .adapters.content_files import read_manifest
from .adapters.identity import ON_TRUST
from .config import AgentConfig
from .core import report
from .core.diagnosis import describe_trust, waiting_install
from .core.leave_out import describe
from .core.states import DeviceState
from .core.trust import TrustView
from .membership import membership

Inputs = Mapping[str, Sequence[TensorSpec] | None]
"""Of each model; None where its manifest cannot be read."""
TIMEOUT_S = 2.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""Names and shapes of the tensors: less than a manifest may have, which is 1 MiB."""


@dataclass(frozen=True, slots=True)
class Status:
    """One look at an agent from outside."""

    device: str
    broker: str
    is_serving: bool
    answer: str
    waiting_records: int
    state: DeviceState
    trust: TrustView | None
    state_fault: str | None = None
    capture: str = "off"
    is_root_on_trust: bool = False

    def to_json(self) -> str:
        """Return the status as JSON."""
        reported = report.reported(self.state, Inventory(), boot="0" * 16, seq=0)
        body: dict[str, Any] = {
            "device": self.device,
            "broker": self.broker,
            "serving": self.is_serving,
            "runtime": self.answer,
            "waiting_records": self.waiting_records,
            "capture": self.capture,
            "state_fault": self.state_fault,
            "generation": reported.generation,
            "trust": self._trust(),
            "root_on_trust": self.is_root_on_trust,
            "models": [m.model_dump(mode="json") for m in reported.models],
            "quarantined": [q.model_dump(mode="json") for q in reported.quarantined],
        }
        return json.dumps(body, indent=2) + "\n"

    def _trust(self) -> dict[str, Any] | None:
        if self.trust is None:
            return None
        roles = {
            name: {"version": facts.version, "expires_unix_ms": facts.expires_unix_ms}
            for name, facts in self.trust.roles.items()
        }
        return {**roles, "waiting": self._waiting()}

    def _waiting(self) -> str | None:
        return waiting_install(self.state, self.trust, _now_unix_ms())

    def to_text(self) -> str:
        """Return the status for a person."""
        reported = report.reported(self.state, Inventory(), boot="0" * 16, seq=0)
        trust = "no signed metadata yet"
        if self.trust is not None:
            trust = describe_trust(self.trust, _now_unix_ms())
        lines = [
            f"device      {self.device}",
            f"broker      {self.broker}",
            f"runtime     {self.answer}",
            f"generation  {reported.generation}",
            f"trust       {trust}",
            f"records     {self.waiting_records} waiting for the controller",
            f"capture     {self.capture}",
        ]
        if self.is_root_on_trust:
            lines.append(f"            {ON_TRUST}")
        if self.state_fault is not None:
            lines.append(f"state       {self.state_fault}")
        if (waiting := self._waiting()) is not None:
            lines.append(f"            {waiting}")
        for model in reported.models:
            active = model.active.version if model.active else "nothing"
            fallback = f", fallback {model.fallback.version}" if model.fallback else ""
            lines.append(f"model       {model.name}: {active} active{fallback}, {model.state}")
            if model.target is not None and model.outcome is not None:
                detail = f": {model.detail}" if model.detail else ""
                lines.append(
                    f"            last update to {model.target.version}: "
                    f"{model.outcome} ({model.code}){detail}"
                )
        lines += [f"quarantined {q.manifest[:12]} ({q.code})" for q in reported.quarantined]
        return "\n".join(lines) + "\n"


def _now_unix_ms() -> int:
    return time.time_ns() // 1_000_000


def read_status(config: AgentConfig) -> Status:
    """Return the status of the agent with this configuration, running or not.

    Raises:
        StorageError: `state_missing` or `state_unreadable`.
    """
    from .adapters.state_sqlite import SqliteStateStore
    from .adapters.trust import TRUST
    from .adapters.trust_peek import peek

    path = config.state.dir / "state.db"
    if not path.exists():
        raise StorageError(
            f"no agent has run with its state in {config.state.dir}",
            code="state_missing",
            hint="start it with `fleet-agent run --config FILE`",
        )
    store = SqliteStateStore(path, can_wait=True)
    try:
        state, fault = store.load(), store.fault
    finally:
        store.close()
    try:
        broker = membership(config).endpoint.url
    except (ConfigError, StorageError) as exc:
        broker = f"none: {exc}; {exc.hint}"
    is_serving, answer = _probe(config)
    return Status(
        device=config.device.id,
        broker=broker,
        is_serving=is_serving,
        answer=answer,
        waiting_records=count_records(config.state.dir / "outbox.db"),
        state=state,
        trust=peek(config.state.dir / TRUST),
        state_fault=None if fault is None else f"{fault}; {fault.hint}",
        capture=capture_words(config, served_inputs(config, state)),
        is_root_on_trust=is_root_on_trust(config),
    )


def served_inputs(config: AgentConfig, state: DeviceState) -> Inputs:
    """Return the inputs of each model that is to be served; None where its manifest cannot be read."""
    found = {
        name: read_manifest(config.state.dir, ref.manifest) for name, ref in state.served_set()
    }
    return {name: manifest.inputs if manifest else None for name, manifest in found.items()}


def capture_words(config: AgentConfig, served: Inputs) -> str:
    """Return plainly what rows are kept and what of them has left this device.

    Args:
        config: Of the device.
        served: See `served_inputs`.
    """
    rules = config.capture
    if rules is None:
        return "off: no row is kept, and none leaves this device"
    path = config.state.dir / RING
    found = peek_ring(path)
    if found is None:
        return f"ON, and {path} cannot be read"
    count, since_unix_ms, uploaded = found
    since = ""
    if since_unix_ms is not None:
        day = time.gmtime(since_unix_ms // 1000)
        since = f" since {time.strftime('%Y-%m-%d %H:%M', day)} UTC"
    return (
        f"ON: inputs and answers of {rules.sample:g} of all rows and of those with a score below "
        f"{rules.uncertain_below:g}{_left_out_words(rules.leave_out, served)}; {count} rows kept here{since}, "
        f"{uploaded} given to the controller"
        + ("; a device with [broker] in its file has no way to give any" if config.broker else "")
    )


def _left_out_words(leave_out: Sequence[str], served: Inputs) -> str:
    if not leave_out:
        return ""
    if not served:
        return f" ({', '.join(leave_out)} left out; no model is served)"
    said = [
        f"{name} {'cannot be read' if inputs is None else describe(leave_out, inputs)}"
        for name, inputs in served.items()
    ]
    return f" ({'; '.join(said)})"


def _probe(config: AgentConfig) -> tuple[bool, str]:
    where = config.serve.address or config.serve.socket
    if where is None:
        return False, "listens nowhere: [serve] has neither listen nor socket"
    words = config.serve.listen or str(where)
    try:
        client = _connect(where)
        client.request("GET", "/v2/health/ready")
        status = client.getresponse().status
        client.close()
    except OSError as exc:
        return False, f"does not answer on {words}: {exc.strerror or exc}"
    return True, f"answers on {words}, " + ("ready" if status == 200 else "no model yet")


def ask_runtime(where: tuple[str, int] | Path, models: Iterable[str]) -> dict[str, str]:
    """Return the version of each of these models that a runtime answers.

    Raises:
        OSError: It does not answer.
    """
    versions: dict[str, str] = {}
    client = _connect(where)
    try:
        client.request("GET", "/v2/health/live")
        client.getresponse().read()
        for name in models:
            client.request("GET", f"/v2/models/{name}")
            answer = client.getresponse()
            body = answer.read(MAX_ANSWER_BYTES)
            answer.close()
            if answer.status == HTTPStatus.OK:
                versions[name] = version_in(body)
    except (http.client.HTTPException, ValueError) as exc:
        raise OSError(errno.EPROTO, "something else than a runtime answers") from exc
    finally:
        client.close()
    return versions


def version_in(body: bytes) -> str:
    """Return the version that an answer about a model names.

    Raises:
        ValueError: It names none; a runtime may have been taken over by a hostile model.
    """
    try:
        version = json.loads(body)["versions"][0]
    except (LookupError, TypeError, RecursionError) as exc:
        raise ValueError("the answer names no version") from exc
    if not isinstance(version, str) or not re.fullmatch(VERSION_PATTERN, version):
        raise ValueError("the answer names no version")
    return version


def _connect(where: tuple[str, int] | Path) -> http.client.HTTPConnection:
    if isinstance(where, Path):
        return _UnixConnection(where)
    return http.client.HTTPConnection(*where, timeout=TIMEOUT_S)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def count_records(path: Path) -> int:
    """Return how many records wait in an outbox; 0 when it cannot be read."""
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            (count,) = db.execute("SELECT count(*) FROM record").fetchone()
    except sqlite3.Error:
        return _count_records_without_index(path)
    return int(count)


def _count_records_without_index(path: Path) -> int:
    from .adapters.database import look_into

    try:
        row = look_into(path, "SELECT count(*) FROM record")
    except StorageError:
        return 0
    return int(row[0]) if row else 0
