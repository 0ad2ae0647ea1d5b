"""Loading an estimator. Only the child process calls this: some formats run code when loaded."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, Final

from wire.errors import BundleError

PICKLES: Final = (".joblib", ".pkl", ".pickle")
SAFE_TYPES: Final = frozenset(
    {
        # Parts of fitted estimators that skops does not trust by itself: data with known fields,
        # no callable beyond scikit-learn's own. The trees' and neighbours' index arrays are not
        # checked by scikit-learn, so a forged file can crash the child, which is why it is one.
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
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "numpy.dtype",
        "numpy.mean",
        "scipy.interpolate._bsplines.BSpline",
        "scipy.sparse._csr.csr_matrix",
        "scipy.sparse._csc.csc_matrix",
    }
)


def load_estimator(source: str, *, trust_pickle: bool) -> Any:
    """Return the fitted estimator that `source` names.

    Raises:
        BundleError: `source_unreadable`, `source_untrusted` or `source_unknown`.
    """
    suffix = Path(source).suffix
    if suffix == ".skops":
        return _load_skops(Path(source))
    if suffix in PICKLES:
        return _load_pickle(Path(source), trust_pickle=trust_pickle)
    if ":" in source:
        return _load_attribute(source)
    raise BundleError(
        f"{source} is of no kind that can be converted",
        code="source_unknown",
        hint="give a .skops, .onnx, .joblib or .pkl file, or module:attribute",
    )


def _load_skops(path: Path) -> Any:
    from skops import io

    try:
        untrusted = set(io.get_untrusted_types(file=path))
        refused = sorted(untrusted - SAFE_TYPES)
        estimator = None if refused else io.load(path, trusted=sorted(untrusted))
    except Exception as exc:  # a forged archive raises whatever its content provokes
        raise BundleError(
            f"cannot read {path}: {str(exc)[:200]}", code="source_unreadable"
        ) from exc
    if refused:
        raise BundleError(
            f"{path.name} holds types that are not known to be safe: {', '.join(refused[:5])}",
            code="source_untrusted",
            hint="build the model from scikit-learn's own parts, or give module:attribute",
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

    try:
        return joblib.load(path)
    except Exception as exc:  # a pickle raises whatever it likes
        raise BundleError(
            f"cannot load {path}: {type(exc).__name__}: {str(exc)[:200]}", code="source_unreadable"
        ) from exc


def _load_attribute(source: str) -> Any:
    module_name, _, attribute = source.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except Exception as exc:  # a module raises whatever it likes
        raise BundleError(
            f"cannot import {source}: {type(exc).__name__}: {str(exc)[:200]}",
            code="source_unreadable",
            hint="module:attribute is looked up from this directory",
        ) from exc
    # Classes have `predict` too, and a factory has not.
    return found() if callable(found) and not hasattr(found, "fit") else found
