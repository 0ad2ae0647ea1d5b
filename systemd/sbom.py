"""The bill of materials of a set of wheels: CycloneDX 1.6 as JSON, equal for equal wheels.

`sbom.py --output dist` builds the project's wheel and writes its bill beside it: with all that its
extras need, but for those that are locked apart, as it is installed here. The wheelhouse has one of
exactly the wheels in it.
"""  # noqa: INP001 - a program beside the units, not a package

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parents[1]
PROJECT: Final = "modelfleet"
FILE_NAME: Final = "sbom.cdx.json"
SPEC_VERSION: Final = "1.6"
APART: Final = frozenset({"kubeflow", "mlflow"})
"""Extras that are not installed beside the others: their versions are in .ci/interop.lock."""
MAX_LICENSE_CHARS: Final = 100
"""Longer ones are whole licence texts in the place of a name."""
NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/")


@dataclass(frozen=True, slots=True)
class Piece:
    """One distribution.

    Attributes:
        metadata: Its METADATA, as the wheel has it.
        needs: Canonical names of the other pieces that it requires.
        sha256: Of the wheel; None where there is none.
    """

    metadata: Message
    needs: frozenset[str]
    sha256: str | None = None

    @property
    def name(self) -> str:
        """The canonical name."""
        return canonicalize_name(str(self.metadata["Name"]))

    @property
    def reference(self) -> str:
        """The package URL, by which the pieces refer to each other."""
        return f"pkg:pypi/{self.name}@{self.metadata['Version']}"


def metadata_of(wheel: Path) -> Message:
    """Return the METADATA of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return BytesHeaderParser().parsebytes(archive.read(name))


def piece_of(wheel: Path, needs: Iterable[str]) -> Piece:
    """Return a wheel as a piece; of `needs` only names matter."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return Piece(metadata_of(wheel), frozenset(map(canonicalize_name, needs)), digest)


def bill(pieces: Iterable[Piece]) -> dict[str, Any]:
    """Return the bill of the project, which is one of the pieces, and of all others."""
    known = {piece.name: piece for piece in pieces}
    project = known[PROJECT]
    others = [known[name] for name in sorted(known) if name != PROJECT]
    document: dict[str, Any] = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "version": 1,
        "metadata": {"component": _component(project, "application")},
        "components": [_component(piece, "library") for piece in others],
        "dependencies": [
            {
                "ref": piece.reference,
                "dependsOn": sorted(known[name].reference for name in piece.needs if name in known),
            }
            for piece in (project, *others)
        ],
    }
    # Of its content, so that the same wheels have the same bill.
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(NAMESPACE, digest)}"
    return document


def write(document: Mapping[str, Any], path: Path) -> None:
    """Write a bill as a file."""
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _component(piece: Piece, kind: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": kind,
        "bom-ref": piece.reference,
        "name": piece.name,
        "version": str(piece.metadata["Version"]),
        "purl": piece.reference,
    }
    if summary := piece.metadata["Summary"]:
        made["description"] = str(summary)
    if licence := piece.metadata["License-Expression"]:
        made["licenses"] = [{"expression": str(licence)}]
    elif (licence := piece.metadata["License"]) and len(str(licence)) <= MAX_LICENSE_CHARS:
        made["licenses"] = [{"license": {"name": str(licence)}}]
    if piece.sha256 is not None:
        made["hashes"] = [{"alg": "SHA-256", "content": piece.sha256}]
    return made


def installed(project: Message) -> list[Piece]:
    """Return all that the project needs with every extra but those apart, as it is installed here.

    Raises:
        metadata.PackageNotFoundError: Something of it is not.
    """
    extras = {PROJECT: set(project.get_all("Provides-Extra", [])) - APART}
    found: dict[str, Piece] = {}
    waiting = [PROJECT]
    while waiting:
        name = waiting.pop()
        described = project if name == PROJECT else _described(name)
        needs = [
            need
            for need in map(Requirement, described.get_all("Requires-Dist", []))
            if _is_wanted(need, extras.get(name, set()))
        ]
        found[name] = Piece(described, frozenset(canonicalize_name(need.name) for need in needs))
        for need in needs:
            other = canonicalize_name(need.name)
            asked = extras.setdefault(other, set())
            if other not in found or not need.extras <= asked:
                asked |= need.extras
                waiting.append(other)
    return [found[name] for name in sorted(found)]


def _described(name: str) -> Message:
    text = metadata.distribution(name).read_text("METADATA") or ""
    return BytesHeaderParser().parsebytes(text.encode())


def _is_wanted(need: Requirement, extras: set[str]) -> bool:
    marker = need.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    if subprocess.run(command, check=False).returncode:
        return 1
    wheel = max(folder.glob(f"{PROJECT}-*.whl"), key=lambda path: path.stat().st_mtime)
    project, *rest = sorted(installed(metadata_of(wheel)), key=lambda piece: piece.name != PROJECT)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    path = wheel.with_suffix(".cdx.json")
    write(bill([Piece(project.metadata, project.needs, digest), *rest]), path)
    sys.stdout.write(f"{wheel}\n{path}: {len(rest)} components\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
