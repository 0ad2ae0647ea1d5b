"""Loading an estimator. Only the child process calls this: some formats run code when loaded."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, Final

from wire.errors import BundleError

PICKLES: Final = (".joblib", ".pkl", ".pickle")
_REFUSED_MODULES: Final = (
    "sklearn.datasets",
    "sklearn.externals",
    "sklearn.utils._testing",
    "sklearn.utils.estimator_checks",
)
"""Parts of scikit-learn that no fitted model needs and that reach for files or the network."""


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
        unknown = io.get_untrusted_types(file=path)
        refused = [name for name in unknown if not _is_numeric_type(name)]
        if refused:
            raise BundleError(
                f"{path.name} holds types that are not known to be safe: "
                f"{', '.join(sorted(refused)[:5])}",
                code="source_untrusted",
                hint="build the model from scikit-learn's own parts, or give module:attribute",
            )
        return io.load(path, trusted=unknown)
    except BundleError:
        raise
    except Exception as exc:  # skops raises whatever its parts raise
        raise BundleError(
            f"cannot read {path}: {str(exc)[:200]}", code="source_unreadable"
        ) from exc


def _is_numeric_type(name: str) -> bool:
    """Return whether a type belongs to scikit-learn proper; skops knows numpy's and scipy's."""
    return name.startswith("sklearn.") and not name.startswith(_REFUSED_MODULES)


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
