"""Method C: a device's disk fails it for a while, one call or many, and then works again.

The device must live through that and come to its end; only a start may be refused, with a typed error.
"""

import errno
from collections import defaultdict

from tests.storage import tracer
from tests.storage.device import REFUSED
from tests.storage.kills import let_pass, life, place, row, scenario_of

CALLS = (*tracer.WRITING, *tracer.READING)
PARALLEL = 12
"""Devices at once: most of their time they rest for 5 s, as the agent does after a fault."""
FAULTS = {
    "EIO": (errno.EIO, set(CALLS)),
    "ENOSPC": (
        errno.ENOSPC,
        {tracer.OPEN_TO_WRITE, "write", "pwrite64", "rename", "mkdir", "fsync", "fdatasync"},
    ),
    "EROFS": (
        errno.EROFS,
        {tracer.OPEN_TO_WRITE, "unlink", "rename", "mkdir", "ftruncate", "write", "pwrite64"},
    ),
}
"""Errors by name: the number, and the calls that a disk may answer with it."""


def fail_at(seed, fault, first, count):
    """Let `count` calls in a row fail, where the error is one of theirs; return what came of it.

    The calls are numbered from 1 as in `tracer.run`.
    """
    number_of_error, possible = FAULTS[fault]
    failed = []

    def decide(number, name, path):
        if not first <= number < first + count or name not in possible:
            return None
        failed.append(number)
        return -number_of_error

    with place(scenario_of(seed)) as (root, memory, ledger):
        ended = tracer.run(life(root, memory, ledger), CALLS, root, decide)
        ledger.read(lines := memory.lines())
        had_started = any(what == "serving" for what, *_ in lines)
        if ended.code == REFUSED and not had_started:
            ledger.settled = None
        else:
            ledger.check_end(ended.code)
        ledger.torn += _stale_syncs(ended.calls, set(failed))
        code = tracer.run(life(root, memory, ledger), (), root, let_pass).code
        ledger.read(memory.lines())
        ledger.check_end(code)
        drawn = {"seed": seed, "fault": fault, "points": [first, count]}
        calls = [ended.calls[number - 1][0] for number in failed[:3]]
        return row("fault", ledger, **drawn, calls=calls, refusals=ledger.refusals)


def _stale_syncs(calls, failed):
    """Return the files that were synced again after a failure with a part not written again.

    Linux forgets the pages that a failed fsync could not write: the next one would say that they
    are on disk. What follows them in SQLite's journal would be lost with the power, unless the
    journal begins anew at 0. A checkpoint syncs the journal once more before it copies what was committed
    there into the database, and drops it then: what failed does not count as committed.
    """
    unsynced, forgotten, found = defaultdict(set), defaultdict(set), []
    for number, (name, path, offset) in enumerate(calls, 1):
        if name in ("fsync", "fdatasync") and not _is_directory(path):
            if number in failed:
                forgotten[path] |= unsynced.pop(path, set())
            elif forgotten[path] and not _is_checkpoint(path, calls[number:]):
                found.append(f"{path} was synced again; {sorted(forgotten[path])} is a hole in it")
            unsynced.pop(path, None)
        elif number in failed:
            continue
        elif name in ("write", "pwrite64"):
            unsynced[path].add(offset)
            forgotten[path].discard(offset)
            if offset == 0 and path.endswith("-wal"):
                forgotten[path].clear()
        elif name in ("ftruncate", "unlink"):
            forgotten[path].clear()
    return found


def _is_checkpoint(path, following):
    """Whether a journal is copied or dropped next, other threads' calls left out."""
    database = path.removesuffix("-wal")
    changing = (
        call for call in following if call[1] in (path, database) and call[0] in tracer.WRITING
    )
    return path != database and next(changing, ())[:2] in (
        ("pwrite64", database),
        ("ftruncate", path),
        ("unlink", path),
    )


def _is_directory(path):
    return (
        path.endswith(("/content", "/bundles", "/chunks"))
        or "modelfleet-" in path.rpartition("/")[2]
    )
