"""The project of the demo's loop: its rows are what they say, and its gate decides as the demo tells."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

PROJECT = Path(__file__).parents[2] / "examples" / "digits-loop"
SIDE = 8


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the project without rows."""
    folder = tmp_path / "digits-loop"
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("data", "runs"))
    return folder


def run(*argv: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, argv)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(project: Path, what: str, *options: str) -> dict[str, Any]:
    run(project / "pictures.py", what, *options)
    table = parquet.read_table(project / "data" / f"{what}.parquet").to_pydict()
    pixels = [table[f"pixel_{row}_{column}"] for row in range(SIDE) for column in range(SIDE)]
    return {**table, "pixels": np.array(pixels).T}


def test_unseen_pictures_are_in_no_file_neither_by_number_nor_by_what_is_on_them(
    project: Path, tmp_path: Path
) -> None:
    firm, loose = rows(project, "firm"), rows(project, "loose")
    run(project / "pictures.py", "traffic", "--output", tmp_path / "traffic.npz")
    with np.load(tmp_path / "traffic.npz") as traffic:
        unseen = np.flatnonzero(traffic["is_unseen"])
        learnt = {*firm["picture"], *loose["picture"]}
        assert len(learnt) == len(firm["picture"]) + len(loose["picture"])
        assert learnt | set(unseen.tolist()) == set(range(len(traffic["label"])))
        assert not learnt & set(unseen.tolist())
        contents = {row.tobytes() for world in ("firm", "loose") for row in traffic[world][unseen]}
        learnt_rows = np.concatenate([firm["pixels"], loose["pixels"]]).astype(np.float32)
        assert not contents & {row.tobytes() for row in learnt_rows}


def test_a_loose_mount_moves_the_picture_and_a_slip_the_labels(
    project: Path, tmp_path: Path
) -> None:
    right, slipped = rows(project, "loose"), rows(project, "loose", "--slipped")
    assert slipped["picture"] == right["picture"]
    assert slipped["digit"] == [right["digit"][-1], *right["digit"][:-1]]
    run(project / "pictures.py", "traffic", "--output", tmp_path / "traffic.npz")
    with np.load(tmp_path / "traffic.npz") as traffic:
        firm = traffic["firm"][right["picture"]].reshape(-1, SIDE, SIDE)
        assert (traffic["label"][right["picture"]] == right["digit"]).all()
    moved = right["pixels"].reshape(-1, SIDE, SIDE)
    assert (moved[:, :, 1:] == firm[:, :, :-1]).all()
    assert not moved[:, :, 0].any()


@pytest.mark.slow
def test_its_gate_refuses_slipped_labels_alone(project: Path) -> None:
    verdicts = []
    rows(project, "firm")
    for options in ((), ("--slipped",), ()):
        if verdicts:
            rows(project, "loose", *options)
        told = run("-m", "fleet", "pipeline", "run", project, "--no-release", "--json")
        verdicts.append(json.loads(told)["verdict"]["outcome"])
    assert verdicts == ["bless", "refuse", "bless"]
