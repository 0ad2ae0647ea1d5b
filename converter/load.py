"""Loading an estimator. Only the child process calls this: some formats run code when loaded."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, Final

from wire.errors import BundleError

from .wording import first_line

PICKLES: Final = (".joblib", ".pkl", ".pickle")
SAFE_TYPES: Final = frozenset(
    {
        # Parts of fitted estimators that skops does not trust by itself: data with known fields,
        # no callable beyond scikit-learn's own. The trees' and neighbours' index arrays are not
        # checked by scikit-learn, so a forged file can crash the child, which is why it is one.
        "sklearn._loss.loss.HalfTweedieLoss",
        "sklearn._loss.loss.HalfTweedieLossIdentity",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.cluster._bisect_k_means._BisectingTree",
        "sklearn.cluster._kmeans._kmeans_single_elkan",
        "sklearn.cluster._kmeans._kmeans_single_lloyd",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._univariate_selection.chi2",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._univariate_selection.f_regression",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.gaussian_process.kernels.CompoundKernel",
        "sklearn.gaussian_process.kernels.ConstantKernel",
        "sklearn.gaussian_process.kernels.DotProduct",
        "sklearn.gaussian_process.kernels.Matern",
        "sklearn.gaussian_process.kernels.Product",
        "sklearn.gaussian_process.kernels.RationalQuadratic",
        "sklearn.gaussian_process.kernels.RBF",
        "sklearn.gaussian_process.kernels.Sum",
        "sklearn.gaussian_process.kernels.WhiteKernel",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.metrics._dist_metrics.ManhattanDistance64",
        "sklearn.metrics._dist_metrics.MinkowskiDistance64",
        "sklearn.metrics._scorer._PassthroughScorer",
        "sklearn.model_selection._split.KFold",
        "sklearn.model_selection._split.StratifiedKFold",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
        "numpy.dtype",
        "numpy.mean",
        "scipy.interpolate._bsplines.BSpline",
        "scipy.sparse._csr.csr_matrix",
        "scipy.sparse._csc.csc_matrix",
    }
)


def load_estimator(source: str, *, trust_pickle: bool) -> Any:
    """Return the estimator that `source` names, which may not be fitted.

    Raises:
        BundleError: `source_unreadable`, `source_untrusted`, `source_unknown` or `source_invalid`.
    """
    suffix = Path(source).suffix
    if suffix == ".skops":
        found = _load_skops(Path(source))
    elif suffix in PICKLES:
        found = _load_pickle(Path(source), trust_pickle=trust_pickle)
    elif ":" in source:
        found = _load_attribute(source)
    else:
        raise BundleError(
            f"{source} is of no kind that can be converted",
            code="source_unknown",
            hint="give a .skops, .onnx, .joblib or .pkl file, or module:attribute",
        )
    can_answer = hasattr(found, "predict") or hasattr(found, "transform")
    if isinstance(found, type) or not hasattr(found, "fit") or not can_answer:
        raise BundleError(
            f"{source} holds no scikit-learn estimator but a {type(found).__name__}",
            code="source_invalid",
        )
    return found


def _load_skops(path: Path) -> Any:
    from skops import io

    try:
        untrusted = set(io.get_untrusted_types(file=path))
        refused = sorted(untrusted - SAFE_TYPES)
        estimator = None if refused else io.load(path, trusted=sorted(untrusted))
    except Exception as exc:  # a forged archive raises whatever its content provokes
        raise _unreadable(f"cannot read {path}", exc) from exc
    if refused:
        more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise BundleError(
            f"{path.name} holds what is not known to be safe: {', '.join(refused[:5])}{more}",
            code="source_untrusted",
            hint="build the model from scikit-learn's own parts; what is your own code can be given"
            " as module:attribute",
        )
    return estimator


def _load_pickle(path: Path, *, trust_pickle: bool) -> Any:
    if not trust_pickle:
        raise BundleError(
            f"{path.name} is a pickle: loading it runs whatever code is in it",
            code="source_untrusted",
            hint="save it with skops.io.dump instead, or add --trust-pickle if it is your own",
        )
    import joblib

    _look_in_working_directory()  # a pickle names the classes that its author had beside it
    try:
        return joblib.load(path)
    except (Exception, SystemExit) as exc:  # a pickle raises whatever it likes
        raise _unreadable(f"cannot load {path}", exc) from exc


def _load_attribute(source: str) -> Any:
    module_name, _, attribute = source.partition(":")
    _look_in_working_directory()
    try:
        found = getattr(importlib.import_module(module_name), attribute)
        # An estimator has `fit` and is no type; a factory, or a class, makes one.
        is_made = hasattr(found, "fit") and not isinstance(found, type)
        return found if is_made or not callable(found) else found()
    except (Exception, SystemExit) as exc:  # a module raises whatever it likes
        hint = "module:attribute is looked up from this directory"
        raise _unreadable(f"cannot import {source}", exc, hint) from exc


def _look_in_working_directory() -> None:
    sys.path.insert(0, str(Path.cwd()))


def _unreadable(what: str, exc: BaseException, hint: str = "") -> BundleError:
    why = f"{type(exc).__name__}: {first_line(exc)}"
    if isinstance(exc, OSError) and exc.strerror:
        why = exc.strerror
    return BundleError(f"{what}: {why}", code="source_unreadable", hint=hint)
