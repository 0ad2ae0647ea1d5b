"""What the child process leaves in its folder for the parent: numbers and JSON, nothing to run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from wire.errors import BundleError

Array = npt.NDArray[Any]
Choice = Literal["largest", "smallest", "sign"]
"""How a label follows from the scores beside it: the largest (a probability), the smallest (a
distance), or the sign of the only one (an outlier's)."""

MODEL_FILE: Final = "model.onnx"
_FACTS: Final = "facts.json"
_ERROR: Final = "error.json"
_OUTPUTS: Final = "outputs.npz"
_COST: Final = "cost.json"


class Facts(BaseModel):
    """What the child learned beside the numbers."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    kind: Literal["classifier", "regressor", "onnx", "other"]
    estimator: str | None = None
    parameters: dict[str, str] = {}
    feature_names: tuple[str, ...] = ()
    choice: Choice = "largest"
    dropped: tuple[str, ...] = ()
    """Outputs left out of the model: the original has nothing to compare them with."""
    rounding_share: float = 0.0
    """Share of rows that the original answers otherwise when they are rounded to float32."""
    warnings: tuple[str, ...] = ()


class Cost(BaseModel):
    """What a converted model takes on this machine, on one thread."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    bytes: Annotated[int, Field(ge=0)]
    """Of the model's file; the only figure that does not depend on the machine."""
    p50_ms: Annotated[float, Field(ge=0)]
    """Of requests of one row."""
    p99_ms: Annotated[float, Field(ge=0)]
    """Of requests of one row."""
    batch_p99_ms: Annotated[float, Field(ge=0)]
    """Of requests of `batch_row_count` rows."""
    batch_row_count: Annotated[int, Field(gt=0)]
    memory_mb: Annotated[float, Field(ge=0)]
    """Peak resident memory from before the model was loaded, as the budget of a bundle has it."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What was asked and what was answered; all by the names of the model's outputs.

    Attributes:
        fed: The rows as the converted model got them, shape (n_rows, n_features).
        converted: Its answers.
        again: The same, asked a second time.
        single: The answers to the first rows, asked one by one.
        original: The original's answers, or None where there is no original.
    """

    fed: Array
    converted: dict[str, Array]
    again: dict[str, Array]
    single: dict[str, Array]
    original: dict[str, Array] | None


def leave(folder: Path, facts: Facts, answers: Answers) -> None:
    """Write what the parent reads."""
    _save(folder / "fed.npz", {"X": answers.fed})
    _save(folder / "converted.npz", answers.converted)
    _save(folder / "again.npz", answers.again)
    _save(folder / "single.npz", answers.single)
    if answers.original is not None:
        _save(folder / "original.npz", answers.original)
    (folder / _FACTS).write_text(facts.model_dump_json())


def leave_outputs(folder: Path, outputs: Mapping[str, Array]) -> None:
    """Write what a converted model answered."""
    _save(folder / _OUTPUTS, outputs)


def take_outputs(folder: Path, row_count: int) -> dict[str, Array] | None:
    """Return what a converted model answered, or None where it is not complete."""
    try:
        outputs = _load(folder / _OUTPUTS)
    except Exception:  # noqa: BLE001 - as in `take`
        return None
    whole = all(array.shape[:1] == (row_count,) for array in outputs.values())
    return outputs if outputs and whole else None


def leave_cost(folder: Path, cost: Cost) -> None:
    """Write what it took."""
    (folder / _COST).write_text(cost.model_dump_json())


def take_cost(folder: Path) -> Cost | None:
    """Return what it took, or None where that is not complete."""
    try:
        return Cost.model_validate_json((folder / _COST).read_bytes())
    except (OSError, ValueError):
        return None


def leave_error(folder: Path, error: BundleError) -> None:
    """Write why there is nothing to read."""
    body = {"message": str(error), "code": error.code, "hint": error.hint}
    (folder / _ERROR).write_text(json.dumps(body))


def take_error(folder: Path) -> BundleError | None:
    """Return the error that the child left, if it left one that can be read."""
    try:
        body = json.loads((folder / _ERROR).read_bytes())
        return BundleError(str(body["message"]), code=str(body["code"]), hint=str(body["hint"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def take(folder: Path) -> tuple[Facts, Answers] | None:
    """Return what the child left, or None where it is not complete.

    The child has run code that is not ours, so nothing in the folder is taken on trust.
    """
    original = folder / "original.npz"
    try:
        facts = Facts.model_validate_json((folder / _FACTS).read_bytes())
        answers = Answers(
            fed=_load(folder / "fed.npz")["X"],
            converted=_load(folder / "converted.npz"),
            again=_load(folder / "again.npz"),
            single=_load(folder / "single.npz"),
            original=_load(original) if original.exists() else None,
        )
    except Exception:  # noqa: BLE001 - a damaged archive raises whatever its content provokes
        return None
    return (facts, answers) if _is_whole(answers) else None


def _is_whole(answers: Answers) -> bool:
    names = set(answers.converted)
    whole = [*answers.converted.values(), *(answers.original or {}).values()]
    return (
        bool(names)
        and all(array.shape[:1] == (len(answers.fed),) for array in whole)
        and set(answers.again) == names
        and set(answers.single) == names
        and set(answers.original or names) == names
    )


def _save(path: Path, arrays: Mapping[str, Array]) -> None:
    # Names of outputs are no safe names of members: number them.
    numbered = {
        f"a{i}": array.astype(str) if array.dtype.kind == "O" else array
        for i, array in enumerate(arrays.values())
    }
    names = np.array(json.dumps(list(arrays)))
    np.savez(path, allow_pickle=False, names=names, **numbered)


def _load(path: Path) -> dict[str, Array]:
    with zipfile.ZipFile(path) as members:
        # `_save` packs nothing, and the child's files have a cap: what unpacks to more is a bomb.
        if sum(member.file_size for member in members.infolist()) > path.stat().st_size:
            raise ValueError("it unpacks to more than it is")
    with np.load(path, allow_pickle=False) as archive:
        names = json.loads(str(archive["names"]))
        return {str(name): archive[f"a{i}"] for i, name in enumerate(names)}
