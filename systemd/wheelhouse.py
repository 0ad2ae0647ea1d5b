"""Collects into one folder what a device needs to install the agent without a network.

The project's wheel, exactly the wheels of the lock that its extra `agent` needs on the device's
architecture and Python, the lock reduced to them, the units and `install.sh`. The lock's hashes are
checked by pip on the way in, and those of the reduced lock again on the device.
"""  # noqa: INP001 - a program beside the units, not a package

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sbom
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCE: Final = ROOT / "systemd"
FOR_INSTALLING: Final = ("install.sh", "device_config.py")
FOR_SYSTEMD: Final = (
    "fleet-agent.service",
    "fleet-agent.socket",
    "modelfleet.sysusers.conf",
    "modelfleet.tmpfiles.conf",
    "agent.toml",
)
OLDEST_GLIBC: Final = {"x86_64": 5, "aarch64": 17}
"""The first glibc, as 2.N, that a manylinux tag of the architecture exists for."""
NEWEST_GLIBC: Final = 36
"""That of Debian 12; a wheel for a newer one would not start on it."""
ALIASES: Final = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}
LOCKED: Final = re.compile(r"(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; (?P<marker>.+))?")


class WheelhouseError(Exception):
    """The folder cannot be made."""


@dataclass(frozen=True, slots=True)
class Target:
    """The device: its architecture and its Python, such as x86_64 and 3.11."""

    arch: str
    python: str

    def fulfils(self, marker: Marker | None, extra: str = "") -> bool:
        """Whether a marker holds there; it is never asked of the Python that runs this."""
        return marker is None or marker.evaluate(
            {
                "extra": extra,
                "implementation_name": "cpython",
                "implementation_version": f"{self.python}.0",
                "os_name": "posix",
                "platform_machine": self.arch,
                "platform_python_implementation": "CPython",
                "platform_system": "Linux",
                "python_full_version": f"{self.python}.0",
                "python_version": self.python,
                "sys_platform": "linux",
            }
        )

    def pip_options(self) -> list[str]:
        """Return pip's description of it."""
        glibcs = range(NEWEST_GLIBC, OLDEST_GLIBC[self.arch] - 1, -1)
        platforms = [f"manylinux_2_{glibc}_{self.arch}" for glibc in glibcs]
        platforms += [f"{alias}_{self.arch}" for alias, glibc in ALIASES.items() if glibc in glibcs]
        return [
            "--only-binary=:all:",
            "--implementation=cp",
            f"--python-version={self.python}",
            *(f"--platform={platform}" for platform in platforms),
        ]


@dataclass(frozen=True, slots=True)
class Pin:
    """One entry of the lock."""

    version: str
    hashes: tuple[str, ...]


def read_lock(text: str, target: Target) -> dict[str, Pin]:
    """Return the lock's entries that hold on the target, by name."""
    pins: dict[str, Pin] = {}
    for entry in text.replace("\\\n", " ").splitlines():
        head, *hashes = entry.split("--hash=")
        if not (match := LOCKED.fullmatch(head.strip())):
            if entry.strip() and not entry.lstrip().startswith("#"):
                raise WheelhouseError(f"requirements.lock: cannot read {head.strip()!r}")
            continue
        if target.fulfils(Marker(match["marker"]) if match["marker"] else None):
            pin = Pin(match["version"], tuple(text.strip() for text in hashes))
            pins[canonicalize_name(match["name"])] = pin
    return pins


def needs_of(wheel: Path, extras: frozenset[str], target: Target) -> list[Requirement]:
    """Return what a wheel requires on the target when asked for with these extras."""
    metadata = sbom.metadata_of(wheel)
    required = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    return [r for r in required if any(target.fulfils(r.marker, e) for e in ("", *extras))]


def pip(*arguments: str | Path) -> None:
    """Run pip; what it says is shown only when it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WheelhouseError(f"pip {arguments[0]} failed:\n{done.stdout[-2000:]}{done.stderr}")


def collect(folder: Path, lock: dict[str, Pin], target: Target) -> dict[str, Path]:
    """Build the project's wheel and fetch all that it needs; return the wheels by name."""
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (project,) = folder.glob("*.whl")
    wheels = {canonicalize_name("modelfleet"): project}
    wanted = needs_of(project, frozenset({"agent"}), target)
    while wanted:
        missing = {canonicalize_name(r.name) for r in wanted} - wheels.keys()
        if unlocked := sorted(missing - lock.keys()):
            raise WheelhouseError(f"not in requirements.lock: {', '.join(unlocked)}")
        fetch(folder, {name: lock[name] for name in missing}, target)
        found = {parse_wheel_filename(path.name)[0]: path for path in folder.glob("*.whl")}
        extras: dict[str, frozenset[str]] = {}
        for r in wanted:
            name = canonicalize_name(r.name)
            extras[name] = extras.get(name, frozenset()) | r.extras
        wanted = [
            need
            for name in sorted(missing)
            for need in needs_of(found[name], extras[name], target)
            if canonicalize_name(need.name) not in found
        ]
        wheels = found
    return wheels


def fetch(folder: Path, pins: dict[str, Pin], target: Target) -> None:
    """Download these wheels, with the lock's hashes."""
    requirements = folder / "wanted.txt"
    requirements.write_text("\n".join(line(name, pin) for name, pin in sorted(pins.items())))
    options = target.pip_options()
    pip("download", "--no-deps", "--require-hashes", *options, "--dest", folder, "-r", requirements)
    requirements.unlink()


def line(name: str, pin: Pin) -> str:
    """Return a pin as pip reads it."""
    hashes = "".join(f" \\\n    --hash={digest}" for digest in pin.hashes)
    return f"{name}=={pin.version}{hashes}\n"


def oldest_glibc(wheels: dict[str, Path]) -> int:
    """Return N of the glibc 2.N that all of the wheels run on."""
    oldest = 0
    for wheel in wheels.values():
        offers = [
            ALIASES.get(alias) or int(glibc)
            for alias, glibc in re.findall(r"(manylinux\d+)_|manylinux_2_(\d+)_", wheel.name)
            if alias in ALIASES or glibc
        ] or [0]
        # The tags of one wheel are alternatives, and so are an alias and the glibc that it means.
        oldest = max(oldest, min(offers))
    return oldest


def make(target: Target, output: Path) -> None:
    """Make the folder beside its final place and rename it there when it is whole."""
    new = output.with_name(f".{output.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    wheel_folder, units = new / "wheels", new / "systemd"
    wheel_folder.mkdir(parents=True)
    units.mkdir()
    lock = read_lock((ROOT / "requirements.lock").read_text(), target)
    wheels = collect(wheel_folder, lock, target)
    pins = {}
    for name, wheel in sorted(wheels.items()):
        version = str(parse_wheel_filename(wheel.name)[1])
        digest = f"sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
        pins[f"{name}[agent]" if name == "modelfleet" else name] = Pin(version, (digest,))
    pieces = [
        sbom.piece_of(wheel, (need.name for need in needs_of(wheel, frozenset({"agent"}), target)))
        for wheel in wheels.values()
    ]
    sbom.write(sbom.bill(pieces), new / sbom.FILE_NAME)
    reduced = new / "requirements.lock"
    reduced.write_text("".join(line(name, pin) for name, pin in pins.items()))
    # pip's own resolver, with nothing but this folder, agrees that nothing is missing. (Its
    # `install --dry-run` would judge by the Python that runs it.)
    pip(
        "download", "--no-index", "--find-links", wheel_folder, "--require-hashes",
        *target.pip_options(), "--dest", new / "resolved", "-r", reduced,
    )  # fmt: skip
    shutil.rmtree(new / "resolved")
    version = pins["modelfleet[agent]"].version
    (new / "wheelhouse.conf").write_text(
        f"# What install.sh checks the device against.\nVERSION={version}\nARCH={target.arch}\n"
        f"PYTHON_VERSION={target.python}\nGLIBC_MINOR={oldest_glibc(wheels)}\n"
    )
    for name in FOR_INSTALLING:
        shutil.copy(SOURCE / name, new)
    for name in FOR_SYSTEMD:
        shutil.copy(SOURCE / name, units)
    shutil.copy(ROOT / "LICENSE", new)
    shutil.rmtree(output, ignore_errors=True)
    new.rename(output)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    shown = os.path.relpath(output)
    sys.stdout.write(
        f"{shown}: modelfleet {version} for {target.arch}, Python {target.python}: "
        f"{len(wheels)} wheels, {size / 1e6:.0f} MB\n"
        f"  copy it to the device, and there, as root: ./install.sh --config FILE\n"
    )


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arch", choices=sorted(OLDEST_GLIBC), required=True)
    parser.add_argument("--python", default="3.11", choices=("3.11", "3.12", "3.13"))
    parser.add_argument("--output", type=Path, help="default: dist/wheelhouse-ARCH")
    options = parser.parse_args()
    output = options.output or ROOT / "dist" / f"wheelhouse-{options.arch}"
    try:
        make(Target(options.arch, options.python), output.absolute())
    except (WheelhouseError, OSError) as exc:
        sys.stderr.write(f"wheelhouse: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
