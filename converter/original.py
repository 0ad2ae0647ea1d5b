"""The model as it was trained: asked for its answers, and described."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from wire.errors import BundleError

from .handover import Choice
from .parity import excesses
from .wording import first_line

Array = npt.NDArray[Any]

_MAX_PARAMETERS: Final = 100
_MAX_PARAMETER_CHARS: Final = 200


def ask_original(estimator: Any, rows: Array) -> dict[int, Array]:
    """Return the original's answers by the position of the output that they belong to.

    Raises:
        BundleError: `data_invalid`, or `source_invalid` when it is not fitted.
    """
    from sklearn.exceptions import NotFittedError

    method = score_method(estimator)
    try:
        if hasattr(estimator, "predict"):
            answers = {0: _dense(estimator.predict(rows))}
            scores = getattr(estimator, method)(rows) if method else None
            # A list has one array for each of several labels: no single output corresponds to it.
            if scores is not None and not isinstance(scores, list):
                answers[1] = _dense(scores)
        else:
            answers = {0: _dense(estimator.transform(rows))}
    except NotFittedError as exc:
        raise BundleError(
            f"{type(estimator).__name__} is not fitted",
            code="source_invalid",
            hint="save the model after fit()",
        ) from exc
    except Exception as exc:  # estimators raise whatever they like
        raise BundleError(
            f"{type(estimator).__name__} does not take the rows of --data: {first_line(exc, 200)}",
            code="data_invalid",
            hint="X must have the columns that the model was trained on",
        ) from exc
    return answers


def score_method(estimator: Any) -> str | None:
    """Return the method whose answer stands beside the label in the converted model, if any."""
    from sklearn.base import is_clusterer

    methods = ["predict_proba", "decision_function", "score_samples"]
    # The distances to the centres. Other estimators mean something else by `transform`.
    methods += ["transform"] if is_clusterer(estimator) else []
    return next((name for name in methods if hasattr(estimator, name)), None)


def score_choice(estimator: Any) -> Choice:
    """Return how the label follows from the scores."""
    from sklearn.base import is_outlier_detector

    if is_outlier_detector(estimator):
        return "sign"
    return "smallest" if score_method(estimator) == "transform" else "largest"


def kind_of(estimator: Any) -> Literal["classifier", "regressor", "other"]:
    """Return what `y` would mean for it."""
    from sklearn.base import is_classifier, is_regressor

    if is_classifier(estimator):
        return "classifier"
    return "regressor" if is_regressor(estimator) else "other"


def shaped_like(converted: Array, original: Array) -> Array | None:
    """Return the original's answer in the converted one's shape, or None if it is another thing."""
    if original.ndim == 1 and converted.shape == (original.size, 2):
        # A binary decision function: ONNX gives both sides.
        return np.stack([-original, original], axis=1)
    if original.size == converted.size and len(original) == len(converted):
        return original.reshape(converted.shape)
    return None


def changed_share(rounded: Array, exact: Array) -> float:
    """Return the share of rows that float32 answers otherwise than the rows as they were given."""
    is_number = exact.dtype.kind == "f"
    differs = excesses(exact, rounded) > 0 if is_number else rounded != exact
    return float(np.mean(differs.reshape(len(exact), -1).any(axis=1)))


def parameters_of(estimator: Any) -> dict[str, str]:
    """Return the settings that are plain values; others may print addresses."""
    found = estimator.get_params(deep=False) if hasattr(estimator, "get_params") else {}
    plain = {k: v for k, v in sorted(found.items()) if isinstance(v, (bool, int, float, str))}
    return {
        key: str(value).encode("utf-8", "replace").decode()[:_MAX_PARAMETER_CHARS]
        for key, value in list(plain.items())[:_MAX_PARAMETERS]
    }


@contextmanager
def noting_versions(found: list[str]) -> Iterator[None]:
    """Collect, in words, that a model was saved by another scikit-learn than the one here."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        made = getattr(warning.message, "original_sklearn_version", None)
        here = getattr(warning.message, "current_sklearn_version", None)
        text = f"saved with scikit-learn {made}, converted with {here}: it may answer otherwise"
        if made and text not in found:
            found.append(text)


def _dense(answer: Any) -> Array:
    return np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
