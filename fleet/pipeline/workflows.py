"""Workflows of a CI service for a project: judged on a pull request, released on a tag."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

from fleet.version import VERSION
from wire.errors import ConfigError

from .code import installed_libraries

SERVICES: Final[Mapping[str, Mapping[str, str]]] = {
    "github": {
        ".github/workflows/validate.yml": "validate.yml",
        ".github/workflows/release.yml": "release.yml",
        ".github/modelfleet.txt": "modelfleet.txt",
    }
}
"""Of each service: where a file goes, from the top of the repository, and which text it is."""
FOLDER_PATTERN: Final = r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*"
"""What means nothing else in YAML, in a pattern of paths, or in an expression of the service."""


def plan_workflows(root: Path, service: str) -> dict[Path, str]:
    """Return the files that a project needs, with what is in each; none of them is there yet.

    They go to the top of the git repository that the folder is in: the service looks nowhere else.

    Args:
        root: Folder of the project; it need not be there yet.
        service: One of `SERVICES`.

    Raises:
        ConfigError: `ci_unknown`; `workflow_exists`: nothing is overwritten; `folder_name`.
    """
    if service not in SERVICES:
        raise ConfigError(
            f"there are no workflows for {service!r}",
            code="ci_unknown",
            hint=f"give {' or '.join(SERVICES)}; docs/ci.md has the commands for any other",
        )
    root = root.resolve()
    top = _top(root)
    planned = {top / name: text for name, text in SERVICES[service].items()}
    if there := [path for path in planned if path.exists() or path.is_symlink()]:
        raise ConfigError(
            f"{there[0]} is there already",
            code="workflow_exists",
            hint="nothing is overwritten: rename it, or remove it first",
        )
    values = _values(_folder(root, top))
    texts = files("fleet.pipeline") / "ci" / service
    return {path: _filled((texts / text).read_text(), values) for path, text in planned.items()}


def write_files(planned: Mapping[Path, str]) -> list[Path]:
    """Write files that are not there; return them.

    Raises:
        ConfigError: `workflow_exists` or `folder_unwritable`.
    """
    for path, text in planned.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError as exc:
            raise ConfigError(f"{path} is there already", code="workflow_exists") from exc
        except OSError as exc:
            raise ConfigError(
                f"cannot write {path}: {exc.strerror}", code="folder_unwritable"
            ) from exc
    return list(planned)


def _top(root: Path) -> Path:
    """Return the top of the repository that a folder is in, without one the folder itself."""
    return next((path for path in (root, *root.parents) if (path / ".git").exists()), root)


def _folder(root: Path, top: Path) -> str:
    """Return a project's folder as its repository names it: `.`, or such as `./models/digits`."""
    name = root.relative_to(top).as_posix()
    if not re.fullmatch(FOLDER_PATTERN, name):
        raise ConfigError(
            f"a workflow cannot name the folder {name[:200]!r}",
            code="folder_name",
            hint="use letters, digits and . _ - in it",
        )
    return name if name == "." else f"./{name}"


def _values(folder: str) -> dict[str, str]:
    libraries = installed_libraries()
    python = libraries.pop("python")
    pins = "\n".join(f"{name}=={version}" for name, version in libraries.items())
    return {"folder": folder, "python": python, "version": VERSION, "libraries": pins}


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"@(folder|python|version|libraries)@", lambda found: values[found[1]], text)
