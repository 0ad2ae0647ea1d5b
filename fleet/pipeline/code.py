"""The user's code: its hash, its commit, and the libraries that it runs with."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from wire.errors import BundleError

from .record import CodeRecord

LIBRARIES: Final = (
    "catboost", "joblib", "lightgbm", "numpy", "onnx", "onnxruntime", "pandas", "polars",
    "pyarrow", "scikit-learn", "scipy", "skl2onnx", "skops", "xgboost",
)  # fmt: skip
"""Whose versions count as inputs, where they are installed."""
MAX_CODE_BYTES: Final = 64 * 1024 * 1024
GIT_TIMEOUT_S: Final = 20.0
LEFT_OUT: Final = frozenset({"runs", "data", "__pycache__", "venv", "node_modules"})
"""Folders, beside hidden ones, that hold no code of the user's own."""


def read_code(root: Path) -> CodeRecord:
    """Return what the project's Python files are.

    Raises:
        BundleError: `code_unreadable`.
    """
    digest, names, total = hashlib.sha256(), [], 0
    for path in _python_files(root):
        name = path.relative_to(root).as_posix()
        try:
            content = path.read_bytes()
        except OSError as exc:
            raise BundleError(
                f"cannot read {name}: {exc.strerror}", code="code_unreadable"
            ) from exc
        total += len(content)
        if total > MAX_CODE_BYTES:
            raise BundleError(
                f"there are over {MAX_CODE_BYTES:,} bytes of Python files in {root}",
                code="code_unreadable",
                hint="keep the project in a folder of its own",
            )
        digest.update(b"%d:%s" % (len(name.encode()), name.encode()))
        digest.update(b"%d:" % len(content) + content)
        names.append(name)
    commit, is_dirty = _commit(root)
    return CodeRecord(
        sha256=digest.hexdigest(), files=tuple(names), commit=commit, is_dirty=is_dirty
    )


def installed_libraries() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a model depends on."""
    # Not the patch: no number depends on it.
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _python_files(root: Path) -> list[Path]:
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = [n for n in inner if n not in LEFT_OUT and not n.startswith(".")]
        found += [Path(folder) / name for name in names if name.endswith(".py")]
    return sorted(path for path in found if path.is_file())


def _commit(root: Path) -> tuple[str | None, bool | None]:
    """Return the commit that is checked out, and whether the folder differs from it."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    changes = _git(root, "status", "--porcelain", "--", ".")
    return commit, None if changes is None else bool(changes)


def _git(root: Path, *words: str) -> str | None:
    # A repository's own configuration can name programs to run: none of these is.
    safe = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]
    try:
        done = subprocess.run(
            ["git", *safe, "-C", str(root), *words],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=GIT_TIMEOUT_S,
            check=False,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
