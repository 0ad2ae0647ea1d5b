"""The packages of .ci/interop.lock: `make interop` has them and fails without; elsewhere, a skip."""

import importlib
import os

import pytest

IS_REQUIRED = os.environ.get("INTEROP") == "required"


def need(name):
    """Return a module; skip the tests of the one that asks, where the environment has none."""
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        if IS_REQUIRED:
            raise
        pytest.skip(f"`make interop` runs this: {exc}", allow_module_level=True)
