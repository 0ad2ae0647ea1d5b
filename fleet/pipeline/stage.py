"""Stages: a run in pieces, as tasks of a workflow engine that hand a folder on.

Each stage is given a project's folder, copies it, and does the steps up to its last one there with
`fleet pipeline run`. What the stages before have made is in the copy, below `runs`, under the hash of
its inputs: it is found, and nothing is done twice. So a run in pieces makes what a run in one does.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from wire.errors import BundleError, ConfigError, StorageError

from .project import FILE_NAME
from .record import RunRecord, parse_record

STAGES: Final[Mapping[str, str]] = {
    "validate": "validate",
    "train": "train",
    "evaluate": "evaluate",
    "bundle": "card",
}
"""Each stage in their order, and the step that is its last. The last one makes the bundle as it is
released: with its card."""
LEFT_OUT: Final = (".git", ".venv", "venv", "__pycache__", "node_modules")
"""What no step reads. Rows may be in any other folder, also a hidden one."""


def run_stage(stage: str, given: str, taken: str, version: str = "") -> RunRecord:
    """Do a stage in a copy of a folder; return the record of the run.

    The steps tell on stderr how they go. What they fail for is told there too, with its code.

    Args:
        stage: One of `STAGES`.
        given: The project's folder, or what an earlier stage has made of it; only read.
        taken: Where the copy goes.
        version: Of the bundle; "" for what `pipeline.toml` says.

    Raises:
        ConfigError: `project_missing`: there is no `pipeline.toml` in the folder.
        StorageError: `folder_unwritable`.
        BundleError: `stage_failed`.
    """
    if not (Path(given) / FILE_NAME).is_file():
        raise ConfigError(
            f"there is no {FILE_NAME} in {given}",
            code="project_missing",
            hint="give the folder of a project, where the task can read it",
        )
    try:
        shutil.copytree(given, taken, ignore=shutil.ignore_patterns(*LEFT_OUT), dirs_exist_ok=True)
    except (OSError, shutil.Error) as exc:
        raise StorageError(f"cannot copy {given}: {exc}", code="folder_unwritable") from exc
    command = [sys.executable, "-m", "fleet", "pipeline", "run", taken, "--json"]
    command += ["--until", STAGES[stage], "--no-release"]
    command += ["--version", version] if version else []
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    record = parse_record(done.stdout) if done.returncode == 0 else None
    if record is None:
        raise BundleError(
            f"{stage} failed with code {done.returncode}",
            code="stage_failed",
            hint="the lines above say why",
        )
    return record
