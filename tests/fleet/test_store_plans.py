"""How the databases find what is asked for all the time: by an index, whatever the history has grown to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from fleet.alerts import evidence
from fleet.alerts.watch import Watch
from fleet.ingest import Outcome
from fleet.store.devices import PresenceRow
from fleet.store.journal import RecordKey, RecordRow
from fleet.store.store import Store, Tx
from wire import codec
from wire import messages as m

BOOTS = ["a" * 16, "b" * 16]
RECORD_COUNT = 3_000
"""In each boot: enough that PostgreSQL, too, finds an index worth its while."""


@pytest.fixture
def store(where: Path | str, tmp_path: Path) -> Iterator[Store]:
    store = Store(where, tmp_path)
    yield store
    store.close()


def plans(tx: Tx, table: str, work: Callable[[], object]) -> list[str]:
    """Return how the database does each query of `table` that some work makes."""
    connection = tx.journal._connection
    asked: list[tuple[str, Any]] = []

    def note(*said: Any) -> None:
        asked.append(said[2:4])

    event.listen(connection, "before_cursor_execute", note)
    work()
    event.remove(connection, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    found = [
        "\n".join(str(row[-1]) for row in connection.exec_driver_sql(f"{explain} {query}", values))
        for query, values in asked
        if query.lstrip().startswith("SELECT") and f"FROM {table}" in query
    ]
    assert found, "nothing was asked"
    return found


def assert_seeks(plan: str, index: str, table: str) -> None:
    """By the index alone, in its order."""
    for way in (f"SCAN {table}", f"Seq Scan on {table}", "TEMP B-TREE", "Sort", "Bitmap"):
        assert way not in plan, plan
    assert index in plan, plan


def vitals(seq: int, *, boot: str = BOOTS[1], dropped: int = 0) -> m.VitalsTelemetry:
    return m.VitalsTelemetry(
        boot=boot,
        seq=seq,
        at_unix_ms=1,
        uptime_s=1,
        cpu_ratio=0,
        memory_available_bytes=1,
        disk_free_bytes=10**10,
        supervisor_rss_bytes=1,
        runtime_rss_bytes=1,
        records_dropped=dropped,
    )


def row(record: m.VitalsTelemetry, device: str = "cam") -> RecordRow:
    key = RecordKey(device, record.boot, record.seq)
    return RecordRow(key, evidence.VITALS, record.seq, codec.encode(record).decode())


def fill(tx: Tx) -> None:
    """Store much of two devices, one of which is looked at."""
    tx.devices.add([("cam", {}), ("other", {})], 1)
    tx.devices.set_presence("cam", PresenceRow("online", BOOTS[1], 1, BOOTS[0], "x", 1))
    for device in ("cam", "other"):
        for boot in BOOTS:
            numbers = range(1, RECORD_COUNT + 1)
            tx.journal.add_records(row(vitals(n, boot=boot, dropped=7), device) for n in numbers)
    if tx.journal._connection.dialect.name == "postgresql":
        tx.journal._connection.exec_driver_sql("ANALYZE")


def test_what_vitals_cost_does_not_grow_with_the_records_of_a_device(store: Store) -> None:
    newest = vitals(RECORD_COUNT + 1, dropped=9)
    with store.write() as tx:
        fill(tx)
        tx.journal.add_records([row(newest)])
        outcome = Outcome(fresh=[("cam", newest)])
        found = plans(tx, "records", lambda: evidence.take_in(Watch(), tx, outcome, 1))
        assert len(found) == 2  # is it the newest; what came before
        key = "autoindex_records" if tx.journal._connection.dialect.name == "sqlite" else "pkey"
        for plan in found:
            assert_seeks(plan, key, "records")
        assert tx.alerts.open_of("records_dropped")["cam"].text == "cam lost 2 records"
