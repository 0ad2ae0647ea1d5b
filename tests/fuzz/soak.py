"""Fuzz every door by coverage, one after the other; the corpus in build/soak/fuzz/ grows over runs.

`FUZZ_MINUTES` is how long in all, `FUZZ_DOORS` which, separated by commas. Ends with 1 if anything was found;
how to try each finding again is printed.
"""

import hashlib
import os
import re
import shlex
import sys
from pathlib import Path
from random import Random  # noqa: TID251 - seeded

from tests.fuzz import harness
from tests.fuzz.harness import all_doors

FOLDER = Path(__file__).parents[2] / "build/soak/fuzz"
SAMPLE_COUNT = 40
MAX_BYTES = 64 * 1024
TIMEOUT_S = 60
"""For one payload, with instrumentation and on a busy machine."""
MAX_RSS_MB = 3072
LEAST_S = 5


def fuzz(name, seconds):
    """Fuzz one door; return how many payloads were tried, and the files that broke a claim."""
    folder = FOLDER / re.sub(r"[^a-zA-Z0-9.]+", "-", name).strip("-")
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    chance = Random(0)
    for _ in range(SAMPLE_COUNT):
        sample = all_doors()[name].sample(chance)
        (corpus / hashlib.sha1(sample, usedforsecurity=False).hexdigest()).write_bytes(sample)
    before = set(folder.glob("*-*"))
    options = [str(corpus), f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}"]
    options += [f"-timeout={TIMEOUT_S}"]
    options += [
        f"-rss_limit_mb={MAX_RSS_MB}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    ]
    status = _in_a_child(name, options, folder)
    said = (folder / "log").read_text("utf-8", "replace")
    counted = re.search(r"number_of_executed_units: *(\d+)", said)
    found = sorted(set(folder.glob("*-*")) - before)
    if (status or counted is None) and not found:
        raise SystemExit(f"{name}: the harness failed, see {folder / 'log'}:\n{said[-2000:]}")
    return int(counted[1]) if counted else 0, found


def _in_a_child(name, options, folder):
    """Fuzz in a process of its own, which begins with all that this one has imported."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        handle = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        try:
            harness.fuzz(name, options, folder)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def main():
    names = [n for n in os.environ.get("FUZZ_DOORS", "").split(",") if n] or list(all_doors())
    seconds = max(LEAST_S, int(float(os.environ.get("FUZZ_MINUTES", "10")) * 60 / len(names)))
    tried, broken = 0, []
    for name in names:
        count, found = fuzz(name, seconds)
        tried += count
        sys.stdout.write(f"{name}: {count} payloads, {count / seconds:.0f} a second\n")
        for path in found:
            again = f"python -m tests.fuzz.again {shlex.quote(name)} {path}"
            sys.stdout.write(f"  broken; try it again with: {again}\n")
        sys.stdout.flush()
        broken += found
    sys.stdout.write(f"{tried} payloads at {len(names)} doors, {len(broken)} findings\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
