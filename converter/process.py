"""The parent's side of the child process: started, waited for, and never outlived."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True)
class Errand:
    """What a child process is started for.

    Attributes:
        module: What it runs, of this package.
        verb: As in the codes of its errors: `convert`, `answer`.
        doing: What takes too long when it does, as a phrase.
        who: The process, as it is told of.
        timeout_s: After which it is ended.
        timeout_hint: What to do then.
        folder: Its working directory; else that of this process.
    """

    module: str
    verb: str
    doing: str
    who: str
    timeout_s: float
    timeout_hint: str
    folder: Path | None = None


def run_child(request: ConvertRequest, rows: Array, folder: Path) -> Converted:
    """Load, export and ask in a child process, with `folder` for its files.

    Raises:
        BundleError: What the child found, or `convert_timeout` or `convert_crashed`.
        StorageError: `scratch_unwritable`.
    """
    errand = Errand(
        module="converter.child",
        verb="convert",
        doing=f"converting {request.source}",
        who=f"the process that converts {request.source}",
        timeout_s=request.timeout_s,
        timeout_hint="give fewer rows in --data, or more time with --timeout",
        folder=request.folder,
    )
    order: dict[str, str | bool] = {
        "source": request.source,
        "name": request.name,
        "trust_pickle": request.trust_pickle,
        "nan_policy": request.nan_policy,
    }
    return _collect(errand, run_errand(errand, order, rows, folder))


def scratch_folder(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """Return a folder for an errand, which goes when its block ends.

    Raises:
        StorageError: `scratch_unwritable`.
    """
    try:
        return tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as exc:
        raise StorageError(
            f"there is no temporary directory: {exc.strerror or exc}",
            code="scratch_unwritable",
            hint="set TMPDIR to a directory that can be written to",
        ) from exc


def run_errand(errand: Errand, order: Mapping[str, str | bool], rows: Array, folder: Path) -> Path:
    """Have a child process do what `order` says with `rows`; return the folder of what it left.

    Raises:
        BundleError: What the child found, or `<verb>_timeout` or `<verb>_crashed`.
        StorageError: `scratch_unwritable`.
    """
    out = folder / "out"
    whole = {**order, "rows": str(folder / "rows.npy"), "parent": os.getpid()}
    try:
        out.mkdir()
        np.save(folder / "rows.npy", rows, allow_pickle=False)
        (folder / "request.json").write_text(json.dumps(whole))
    except OSError as exc:
        raise StorageError(
            f"cannot write to {folder.parent}: {exc.strerror or exc}",
            code="scratch_unwritable",
            hint="set TMPDIR to a directory with room for several times the size of --data",
        ) from exc
    # -P: nothing is imported from the working directory but what the source asks for.
    argv = [sys.executable, "-P", "-m", errand.module]
    argv += [str(folder / "request.json"), str(out)]
    returncode, said = _run(argv, errand, folder / "stderr")
    if (error := take_error(out)) is not None:
        raise error
    if returncode != 0:
        raise _crashed(errand, returncode, said)
    return out


def _run(argv: list[str], errand: Errand, stderr: Path) -> tuple[int, str]:
    """Return the exit code and the last line of what was said."""
    with stderr.open("wb+") as said:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # ours is for the report
            stderr=said,
            env={**os.environ, **ENVIRONMENT},
            cwd=errand.folder,
            start_new_session=True,
        )
        try:
            returncode = process.wait(errand.timeout_s)
        except subprocess.TimeoutExpired as exc:
            raise BundleError(
                f"{errand.doing} did not end within {errand.timeout_s:g} s",
                code=f"{errand.verb}_timeout",
                hint=errand.timeout_hint,
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


def _crashed(errand: Errand, returncode: int, said: str) -> BundleError:
    hint = ""
    if returncode < 0:
        how = f"was ended by {signal_name(-returncode)}"
        hint = "was there enough memory?" if returncode == -signal.SIGKILL else ""
    else:
        how = f"failed: {said or f'it ended with {returncode} and no word'}"
    return BundleError(f"{errand.who} {how}", code=f"{errand.verb}_crashed", hint=hint)


def ended_early(errand: Errand) -> BundleError:
    """Return the error for a child that left less than it should have."""
    return BundleError(f"{errand.who} ended before it was done", code=f"{errand.verb}_crashed")


def signal_name(number: int) -> str:
    """Return a signal by its name, where it has one."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _collect(errand: Errand, out: Path) -> Converted:
    from .inspect import (
        describe_input,
        describe_tensors,
        minimum_runtime,
        operators,
        read_model,
    )

    taken = take(out)
    if taken is None:
        raise ended_early(errand)
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
