"""How releases were made: what a pipeline says of its run, kept once and for ever."""

from __future__ import annotations

from fleet import acts, aliases
from fleet.api.run_schemas import MAX_RUN_BYTES, RunRecord
from fleet.store.runs import RunRow
from fleet.store.store import Tx
from wire.errors import PeerError


def keep(
    tx: Tx, model: str, version: str, record: RunRecord, *, by: str, now_unix_ms: int
) -> tuple[RunRow, bool]:
    """Keep the record of the run that made a release; return it, and whether it is new.

    The same record again changes nothing.

    Raises:
        PeerError: `unknown_release`, `run_too_large`, or `run_exists`: another one is kept.
    """
    acts.about(f"{model}:{version} run {record.run}")
    release = aliases.resolve(tx, model, version)
    body = record.model_dump_json()
    if len(body.encode()) > MAX_RUN_BYTES:
        raise PeerError(
            f"the record of run {record.run[:80]!r} has more than {MAX_RUN_BYTES // 1024} KiB",
            code="run_too_large",
            hint="data, curves and reports stay in the run's folder; name their digests here",
        )
    old = tx.runs.get(release.manifest)
    if old is None:
        row = RunRow(release.manifest, release.model, release.version, body, now_unix_ms, by)
        tx.runs.add(row)
        return row, True
    if old.body != body:
        raise PeerError(
            f"{model}:{release.version} has the record of another run",
            code="run_exists",
            hint="a release was made once: release the new run under a version of its own",
        )
    return old, False


def of_release(tx: Tx, model: str, version: str) -> RunRow:
    """Return the record of the run that made a release.

    Raises:
        PeerError: `unknown_release`, `unknown_alias` or `unknown_run`.
    """
    release = aliases.resolve(tx, model, version)
    row = tx.runs.get(release.manifest)
    if row is None:
        raise PeerError(
            f"nobody has said how {model}:{release.version} was made",
            code="unknown_run",
            hint="the pipeline does when it releases",
        )
    return row
