"""The train rows in folds: each is a snapshot of its own, trained on the others and judged by the one left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wire.errors import ConfigError

from .cache import Entry
from .making import Maker
from .project import PARTS
from .run import Recipe, Run
from .snapshot import (
    REFERENCE,
    encode_table,
    join_tables,
    load_buckets,
    load_part,
    select,
)
from .split import folds_of


def fold_rows(run: Run, maker: Maker, count: int) -> tuple[Entry, ...]:
    """Return the rows to make trials with, one for each fold; those of the run itself where there is one fold.

    Args:
        run: Keeps them as it keeps steps.
        maker: Has the rows.
        count: How many folds.

    Raises:
        ConfigError: `project_invalid`: a fold is without rows.
    """
    if count == 1:
        return (maker.rows,)
    folds = folds_of(load_buckets(maker.rows.folder), maker.project.data.split, count)
    if empty := set(range(count)) - set(folds.tolist()):
        raise ConfigError(
            f"[tune] folds = {count}: of {len(folds)} train rows none is in fold {min(empty) + 1}",
            code="project_invalid",
            hint="give more rows or fewer folds; equal rows, or those of one [data] key, stay together",
        )
    return tuple(run.keep(_fold(maker, folds == number, count, number)) for number in range(count))


def _fold(
    maker: Maker, is_left_out: np.ndarray[tuple[int], np.dtype[np.bool_]], count: int, number: int
) -> Recipe:
    """Return how the files of a snapshot are made whose validation rows are one fold of another's train rows."""
    rows = maker.rows

    def produce(folder: Path) -> None:
        whole = load_part(rows.folder, PARTS[0])
        left_out = select(whole, is_left_out)
        unseen = join_tables([left_out, load_part(rows.folder, REFERENCE)])
        tables = {PARTS[0]: select(whole, ~is_left_out), PARTS[1]: left_out, REFERENCE: unseen}
        for name, table in tables.items():
            (folder / f"{name}.npz").write_bytes(encode_table(table))

    return Recipe("snapshot", {"rows": rows.digest, "folds": count, "fold": number}, produce)
