"""The parent's side of the child process: started, waited for, and never outlived."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wire.errors import BundleError, StorageError
from wire.graph import scan_model
from wire.manifest import TensorSpec

from .handover import MODEL_FILE, Answers, Facts, take, take_error
from .request import ConvertRequest
from .wording import plain

Array = npt.NDArray[Any]

_MAX_STDERR_BYTES: Final = 64 * 1024
ENVIRONMENT: Final = {
    "ORT_DISABLE_TELEMETRY": "1",
    # One thread adds in one order, so that equal input gives equal bytes on any number of cores;
    # and joblib neither starts processes nor tries what the system has for them.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JOBLIB_MULTIPROCESSING": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""Of every child that runs a model."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A converted model, and what it and the original answered."""

    model: bytes
    facts: Facts
    answers: Answers
    input: TensorSpec
    outputs: list[TensorSpec]
    opset: dict[str, int]
    ir_version: int
    ops: list[str]
    minimum_runtime: str


def run_child(request: ConvertRequest, rows: Array, folder: Path) -> Converted:
    """Load, export and ask in a child process, with `folder` for its files.

    Raises:
        BundleError: What the child found, or `convert_timeout` or `convert_crashed`.
        StorageError: `scratch_unwritable`.
    """
    out = folder / "out"
    order = {
        "source": request.source,
        "name": request.name,
        "rows": str(folder / "rows.npy"),
        "trust_pickle": request.trust_pickle,
        "nan_policy": request.nan_policy,
        "parent": os.getpid(),
    }
    try:
        out.mkdir()
        np.save(folder / "rows.npy", rows, allow_pickle=False)
        (folder / "request.json").write_text(json.dumps(order))
    except OSError as exc:
        raise StorageError(
            f"cannot write to {folder.parent}: {exc.strerror or exc}",
            code="scratch_unwritable",
            hint="set TMPDIR to a directory with room for several times the size of --data",
        ) from exc
    # -P: nothing is imported from the working directory but what the source asks for.
    argv = [sys.executable, "-P", "-m", "converter.child"]
    argv += [str(folder / "request.json"), str(out)]
    returncode, said = _run(argv, request, folder / "stderr")
    if (error := take_error(out)) is not None:
        raise error
    if returncode != 0:
        raise _crashed(request.source, returncode, said)
    return _collect(request.source, out)


def _run(argv: list[str], request: ConvertRequest, stderr: Path) -> tuple[int, str]:
    """Return the exit code and the last line of what was said."""
    with stderr.open("wb+") as said:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # ours is for the report
            stderr=said,
            env={**os.environ, **ENVIRONMENT},
            cwd=request.folder,
            start_new_session=True,
        )
        try:
            returncode = process.wait(request.timeout_s)
        except subprocess.TimeoutExpired as exc:
            raise BundleError(
                f"converting {request.source} did not end within {request.timeout_s:g} s",
                code="convert_timeout",
                hint="give fewer rows in --data, or more time with --timeout",
            ) from exc
        finally:
            end(process)
        said.seek(max(0, said.seek(0, os.SEEK_END) - _MAX_STDERR_BYTES))
        lines = said.read().decode(errors="replace").strip().splitlines()
    return returncode, plain(lines[-1]) if lines else ""


def end(process: subprocess.Popen[bytes]) -> None:
    """End the process and everything that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _crashed(source: str, returncode: int, said: str) -> BundleError:
    hint = ""
    if returncode < 0:
        how = f"was ended by {signal_name(-returncode)}"
        hint = "was there enough memory?" if returncode == -signal.SIGKILL else ""
    else:
        how = f"failed: {said or f'it ended with {returncode} and no word'}"
    return BundleError(
        f"the process that converts {source} {how}", code="convert_crashed", hint=hint
    )


def signal_name(number: int) -> str:
    """Return a signal by its name, where it has one."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _collect(source: str, out: Path) -> Converted:
    from .inspect import (
        describe_input,
        describe_tensors,
        minimum_runtime,
        operators,
        read_model,
    )

    taken = take(out)
    if taken is None:
        raise BundleError(
            f"the process that converts {source} ended before it was done", code="convert_crashed"
        )
    facts, answers = taken
    model = read_model(out / MODEL_FILE)
    serialised = (out / MODEL_FILE).read_bytes()
    scan_model(serialised)  # what every device would refuse is refused here
    return Converted(
        model=serialised,
        facts=facts,
        answers=answers,
        input=describe_input(model),
        outputs=describe_tensors(model.graph.output, "output"),
        opset={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        ir_version=model.ir_version,
        ops=operators(model),
        minimum_runtime=minimum_runtime(model),
    )
