"""The child process that trains: calls the user's function, leaves the estimator, nothing else.

    python -P -m converter.trainer REQUEST.json OUTPUT_DIR

REQUEST.json has `folder`, `entry`, `data`, `params`, `seed` and `parent`. What the user's code
prints goes where the parent wants it, as does its traceback when it fails.
"""

from __future__ import annotations

import importlib
import json
import random  # noqa: TID251 - to seed it for the user's code
import resource
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wire.errors import BundleError

from .child import die_with
from .handover import leave_error
from .rows import read_arrays
from .wording import first_line

Array = npt.NDArray[Any]

SAFE_FILE: Final = "estimator.skops"
PICKLE_FILE: Final = "estimator.pkl"
"""For an estimator that has parts which skops does not know to be safe, such as the user's own."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What the user's function is given.

    Attributes:
        values: Features, shape (n_rows, n_features).
        labels: Shape (n_rows,).
        feature_names: One a column.
        slices: Columns that the model is not fed, by name, each shape (n_rows,).
    """

    values: Array
    labels: Array
    feature_names: tuple[str, ...]
    slices: Mapping[str, Array]


def main() -> int:
    """Do what REQUEST.json says; return 0, or 1 with the error left for the parent."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.loads(Path(sys.argv[1]).read_text())
    die_with(request["parent"])
    out = Path(sys.argv[2])
    try:
        save(train(request), out)
    except BundleError as exc:
        leave_error(out, exc)
        return 1
    return 0


def train(request: Mapping[str, Any]) -> Any:
    """Return what the user's function returns.

    Raises:
        BundleError: `train_unreadable`, `train_failed` or `train_invalid`.
    """
    data = _read(Path(request["data"]))
    folder = Path(request["folder"])
    random.seed(request["seed"])
    np.random.seed(request["seed"])  # noqa: NPY002 - what scikit-learn uses where nothing is given
    sys.path.insert(0, str(folder))
    module_name, _, attribute = request["entry"].partition(":")
    function = _guarded(folder, lambda: _find(module_name, attribute), "train_unreadable")
    estimator = _guarded(folder, lambda: function(data, request["params"]), "train_failed")
    if isinstance(estimator, type) or not (
        hasattr(estimator, "fit") and hasattr(estimator, "predict")
    ):
        raise BundleError(
            f"{request['entry']} returned a {type(estimator).__name__}, which is no estimator",
            code="train_invalid",
            hint="it must return a fitted scikit-learn estimator",
        )
    return estimator


def save(estimator: Any, out: Path) -> None:
    """Leave the estimator: as skops where all of it is known to be safe, else as a pickle.

    Raises:
        BundleError: `train_invalid`: it cannot be saved.
    """
    import joblib
    from skops import io

    from .load import SAFE_TYPES

    path = out / SAFE_FILE
    try:
        io.dump(estimator, path)
        if set(io.get_untrusted_types(file=path)) <= SAFE_TYPES:
            return
    except Exception:  # noqa: BLE001 - what skops cannot save raises whatever it likes
        traceback.print_exc()
    path.unlink(missing_ok=True)
    try:
        joblib.dump(estimator, out / PICKLE_FILE)
    except Exception as exc:
        raise BundleError(
            f"the estimator cannot be saved: {type(exc).__name__}: {first_line(exc, 200)}",
            code="train_invalid",
        ) from exc


def _read(path: Path) -> TrainingData:
    with path.open("rb") as file:
        arrays = read_arrays(path, file)
    names = [str(name) for name in arrays["slice_names"].tolist()]
    return TrainingData(
        values=arrays["X"],
        labels=arrays["y"],
        feature_names=tuple(str(name) for name in arrays["feature_names"].tolist()),
        slices={name: arrays[f"slice_{number}"] for number, name in enumerate(names)},
    )


def _find(module_name: str, attribute: str) -> Any:
    found = getattr(importlib.import_module(module_name), attribute)
    if not callable(found):
        raise TypeError(f"{attribute} is no function")
    return found


def _guarded(folder: Path, call: Any, code: str) -> Any:
    """Return what `call` returns; have what it raises told by the line of the user's own code."""
    try:
        return call()
    except (Exception, SystemExit) as exc:
        traceback.print_exc()
        frames = [
            frame
            for frame in traceback.extract_tb(exc.__traceback__)
            if Path(frame.filename).is_relative_to(folder)
        ]
        where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}: " if frames else ""
        raise BundleError(
            f"{where}{type(exc).__name__}: {first_line(exc, 200)}", code=code
        ) from exc


if __name__ == "__main__":
    sys.exit(main())
