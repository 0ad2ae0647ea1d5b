"""A folder to begin with, which runs as it is: real rows, a training function, `pipeline.toml`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Final

from wire.errors import ConfigError

from .columns import read_columns
from .project import FILE_NAME

STARTERS: Final = {"digits": ("digit", ".parquet"), "diabetes": ("progression", ".csv")}
"""Data sets of scikit-learn: the label's name, and the kind of file that their rows come in."""
SAMPLE_TIMEOUT_S: Final = 120.0
_IGNORED: Final = "# What runs leave.\n/runs/\n__pycache__/\n"


def make_project(root: Path, starter: str) -> None:
    """Write a project into a folder that is empty or not there.

    Raises:
        ConfigError: `folder_not_empty`, `starter_unknown`, `converter_missing`, `pipeline_missing`
            or `folder_unwritable`.
    """
    if starter not in STARTERS:
        raise ConfigError(
            f"there is nothing to begin with called {starter!r}",
            code="starter_unknown",
            hint=f"give {' or '.join(STARTERS)}",
        )
    try:
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise ConfigError(
                f"{root} is there already, and not empty",
                code="folder_not_empty",
                hint="choose another folder",
            )
        with tempfile.TemporaryDirectory(prefix="pipeline-") as scratch:
            rows = Path(scratch) / f"{starter}.npz"
            _fetch_rows(starter, rows)
            (root / "data").mkdir(parents=True, exist_ok=True)
            _write_rows(rows, root / "data", starter)
        texts = files("fleet.pipeline") / "starters" / starter
        (root / "train.py").write_text((texts / "train.py.txt").read_text())
        (root / ".gitignore").write_text(_IGNORED)
        # Last: with it the folder is a project.
        (root / FILE_NAME).write_text((texts / FILE_NAME).read_text())
    except OSError as exc:
        raise ConfigError(
            f"cannot write to {root}: {exc.strerror}", code="folder_unwritable"
        ) from exc


def _fetch_rows(starter: str, path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "converter.sample", starter, str(path)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=SAMPLE_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0 or not path.is_file():
        raise ConfigError(
            "scikit-learn, whose data this begins with, does not work here",
            code="converter_missing",
            hint="pip install 'modelfleet[fleet,pipeline]'",
        )


def _write_rows(rows: Path, folder: Path, starter: str) -> None:
    table = read_columns(rows, rows.name)
    label, suffix = STARTERS[starter]
    table = table.rename_columns([label if name == "y" else name for name in table.column_names])
    path = folder / f"{starter}{suffix}"
    if suffix == ".csv":
        from pyarrow import csv

        csv.write_csv(table, path)
    else:
        from pyarrow import parquet

        parquet.write_table(table, path)
