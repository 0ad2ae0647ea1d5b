"""Looks for known vulnerabilities in all that the locks name which people install, by pip-audit.

Exit code 0: all of it was looked up, and nothing is known. 1: something is. 2: it could not be
looked up, in whole or in part; `--may-be-unreachable` makes that 0, and says so all the same.
"""  # noqa: INP001 - a program of CI, not a package

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = (ROOT / "requirements.lock", ROOT / ".ci/interop.lock")
"""What is installed beside people's own data: the programs, and the extras `kubeflow` and `mlflow`."""
CLEAN, VULNERABLE, NOT_AUDITED = 0, 1, 2
SHOWN = 5


def ask(python: str, lock: Path) -> tuple[dict[str, Any] | None, str]:
    """Return pip-audit's report, None when it has none, and what it said."""
    command = [python, "-m", "pip_audit", "-r", str(lock), "--disable-pip", "--require-hashes"]
    command += ["--format=json", "--progress-spinner=off", "--timeout=20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout), done.stderr
    except ValueError:
        return None, done.stderr


def judge(report: dict[str, Any] | None, said: str) -> tuple[int, list[str]]:
    """Return the exit code and what to tell."""
    if report is None:
        reason = (said.strip().splitlines() or ["pip-audit said nothing"])[-1]
        return NOT_AUDITED, [f"NOT AUDITED: no advisory database can be reached: {reason[:300]}"]
    entries = report["dependencies"]
    skipped = [entry["name"] for entry in entries if "skip_reason" in entry]
    lines = [
        f"{entry['name']} {entry['version']}: {vuln['id']}, fixed in"
        f" {', '.join(vuln['fix_versions']) or 'no version'}"
        for entry in entries
        for vuln in entry.get("vulns", ())
    ]
    looked_up = len(entries) - len(skipped)
    lines.append(f"{looked_up} of {len(entries)} packages looked up, {len(lines)} known faults")
    code = VULNERABLE if len(lines) > 1 else CLEAN
    if skipped or not entries:
        names = ", ".join(skipped[:SHOWN]) + (" …" if len(skipped) > SHOWN else "")
        lines.append(f"NOT AUDITED: the advisory database answered nothing for {names or 'any'}")
        code = code or NOT_AUDITED
    return code, lines


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lock", type=Path, action="append", help="repeatable; default: all")
    parser.add_argument("--python", default=sys.executable, help="one that has pip-audit")
    parser.add_argument("--may-be-unreachable", action="store_true")
    options = parser.parse_args()
    codes = set()
    for lock in options.lock or LOCKS:
        code, lines = judge(*ask(options.python, lock))
        codes.add(code)
        sys.stdout.write("".join(f"{lock.name}: {line}\n" for line in lines))
    if VULNERABLE in codes:
        return VULNERABLE
    return NOT_AUDITED if NOT_AUDITED in codes and not options.may_be_unreachable else CLEAN


if __name__ == "__main__":
    sys.exit(main())
