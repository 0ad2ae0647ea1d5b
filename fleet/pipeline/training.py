"""The training, from outside: the user's code runs in a child process with a deadline and a log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from pydantic import JsonValue

from converter.handover import take_error
from converter.process import ENVIRONMENT, end, signal_name
from converter.trainer import PICKLE_FILE, SAFE_FILE
from wire.errors import BundleError

MAX_LOG_BYTES: Final = 2 * 1024 * 1024
"""Of what the user's code prints, half from its beginning and half from its end."""
READ_BYTES: Final = 64 * 1024
DRAIN_S: Final = 5.0
"""How long what was printed last may take to come, when a process that left its session holds on."""


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """One training.

    Attributes:
        folder: The user's project, from which modules are imported.
        entry: `module:function`.
        data: The rows to train on, as `fleet.pipeline.snapshot` writes them.
        params: What the function is given beside them.
        seed: For Python's and numpy's own random numbers.
        timeout_s: After which it is ended.
        log: The file for what it prints.
    """

    folder: Path
    entry: str
    data: Path
    params: dict[str, JsonValue]
    seed: int
    timeout_s: float
    log: Path


def train(request: TrainRequest, out: Path) -> Path:
    """Train, and return the file of the estimator in `out`, an empty folder.

    Raises:
        BundleError: `train_unreadable`, `train_failed`, `train_invalid`, `train_timeout` or
            `train_crashed`, in one sentence; the traceback is in the log.
    """
    order = {
        "folder": str(request.folder),
        "entry": request.entry,
        "data": str(request.data),
        "params": request.params,
        "seed": request.seed,
        "parent": os.getpid(),
    }
    made = out / "made"
    made.mkdir()
    (out / "request.json").write_text(json.dumps(order))
    returncode = _run(request, out / "request.json", made)
    (out / "request.json").unlink()
    hint = f"all that it said is in {request.log}"
    if (error := take_error(made)) is not None:
        raise BundleError(f"training failed: {error}", code=error.code, hint=error.hint or hint)
    found = [made / name for name in (SAFE_FILE, PICKLE_FILE) if (made / name).is_file()]
    if returncode != 0 or not found:
        how = (
            f"was ended by {signal_name(-returncode)}"
            if returncode < 0
            else f"ended with {returncode} before it was done"
        )
        memory = "was there enough memory? " if returncode == -signal.SIGKILL else ""
        raise BundleError(f"training {how}", code="train_crashed", hint=f"{memory}{hint}")
    estimator = out / found[0].name
    found[0].rename(estimator)
    made.rmdir()
    return estimator


def _run(request: TrainRequest, order: Path, made: Path) -> int:
    environment = {**os.environ, **ENVIRONMENT, "PYTHONHASHSEED": str(request.seed)}
    source, sink = os.pipe()
    with open(sink, "wb") as said:  # noqa: PTH123 - a descriptor
        # The reader owns both of its files: it may outlive this call where something holds the pipe.
        files = (open(source, "rb"), request.log.open("wb"))  # noqa: PTH123, SIM115
        reader = threading.Thread(target=_keep, args=files, daemon=True)
        reader.start()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "converter.trainer", str(order), str(made)],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env={**environment, "PYTHONUNBUFFERED": "1"},
            cwd=request.folder,
            start_new_session=True,
        )
    try:
        return process.wait(request.timeout_s)
    except subprocess.TimeoutExpired as exc:
        raise BundleError(
            f"training did not end within {request.timeout_s:g} s",
            code="train_timeout",
            hint=f"give it more time in [train] timeout; what it said is in {request.log}",
        ) from exc
    finally:
        end(process)
        reader.join(DRAIN_S)


def _keep(source: IO[bytes], log: IO[bytes]) -> None:
    """Copy the beginning and the end of what comes, so that no print fills the disk or stalls."""
    with source, log:
        _copy(source, log)


def _copy(source: IO[bytes], log: IO[bytes]) -> None:
    half = MAX_LOG_BYTES // 2
    written, held_bytes, left_out = 0, 0, 0
    tail: deque[bytes] = deque()
    while block := os.read(source.fileno(), READ_BYTES):
        head, rest = block[: half - written], block[half - written :]
        log.write(head)
        log.flush()
        written += len(head)
        if rest:
            tail.append(rest)
            held_bytes += len(rest)
        while held_bytes > half:
            dropped = len(tail.popleft())
            held_bytes -= dropped
            left_out += dropped
    if left_out:
        log.write(b"\n[... %d bytes left out ...]\n" % left_out)
    log.writelines(tail)
    log.flush()
