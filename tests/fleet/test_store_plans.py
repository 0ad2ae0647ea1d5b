"""How the databases find what is asked for all the time: by an index, whatever the history has grown to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, event, insert, select

from fleet.alerts import evidence
from fleet.alerts.watch import Watch
from fleet.core.performance import PerformanceSums
from fleet.core.windows import WindowSums
from fleet.ingest import Outcome
from fleet.store.devices import PresenceRow, Selection
from fleet.store.journal import RecordKey, RecordRow
from fleet.store.slots import SlotRow
from fleet.store.store import Store, Tx
from fleet.store.watch_schema import PERFORMANCE, WINDOWS
from wire import codec
from wire import messages as m

MANIFEST = "f" * 64
EMPTY = {"windows": WindowSums(), "performance": PerformanceSums()}
BOOTS = ["a" * 16, "b" * 16]
HOUR_MS = 3_600_000
RECORD_COUNT = 3_000
"""In each boot: enough that PostgreSQL, too, finds an index worth its while."""


@pytest.fixture
def store(where: Path | str, tmp_path: Path) -> Iterator[Store]:
    store = Store(where, tmp_path)
    yield store
    store.close()


def plans(tx: Tx, table: str, work: Callable[[], object]) -> list[str]:
    """Return how the database does each statement on `table` that some work makes."""
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
        if query.lstrip().startswith(("SELECT", "DELETE", "WITH"))
        and (f"FROM {table}" in query or f"JOIN {table}" in query)
    ]
    assert found, "nothing was asked"
    return found


def assert_seeks(plan: str, index: str, table: str, *, is_sorted: bool = False) -> None:
    """By the index; `is_sorted` asks that it be read in its order, which ends at the limit."""
    scans = (f"SCAN {table}", "SCAN r", f"Seq Scan on {table}")
    for way in (*scans, *(("TEMP B-TREE", "Sort", "Bitmap") if is_sorted else ())):
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


def fill(tx: Tx, boots: Iterable[str] = BOOTS, count: int = RECORD_COUNT) -> None:
    """Store much of two devices, `count` records in each boot."""
    tx.devices.add([("cam", {}), ("other", {})], 1)
    tx.devices.set_presence("cam", PresenceRow("online", BOOTS[1], 1, BOOTS[0], "x", 1))
    boots = list(boots)
    for device in ("cam", "other"):
        tx.journal.add_records(
            row(vitals(n, boot=boot, dropped=7), device)
            for boot in boots
            for n in range(1, count + 1)
        )
    analyse(tx)


def analyse(tx: Tx) -> None:
    """Have PostgreSQL know how much there is."""
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
            assert_seeks(plan, key, "records", is_sorted=True)
        assert tx.alerts.open_of("records_dropped")["cam"].text == "cam lost 2 records"


def test_a_record_is_looked_for_by_its_key_among_all_that_there_are(store: Store) -> None:
    with store.write() as tx:
        fill(tx)
        records = [row(vitals(n), device) for device in ("cam", "other") for n in (1, 10**6)]
        fresh: list[RecordRow] = []
        (plan,) = plans(tx, "records", lambda: fresh.extend(tx.journal.add_records(records)))
        assert [found.key.seq for found in fresh] == [10**6, 10**6]
        sqlite = tx.journal._connection.dialect.name == "sqlite"
        assert_seeks(plan, "autoindex_records" if sqlite else "records_pkey", "records")


def test_what_a_record_costs_does_not_grow_with_what_is_no_longer_kept(store: Store) -> None:
    with store.write() as tx:
        fill(tx, boots=[f"{number:016x}" for number in range(900)], count=2)
        tx.journal.prune_records(10**6)
        analyse(tx)
        newest = [row(vitals(9)), row(vitals(9), "other")]
        sqlite = tx.journal._connection.dialect.name == "sqlite"
        key = "autoindex_record_ranges" if sqlite else "record_ranges_pkey"
        for plan in plans(tx, "record_ranges", lambda: tx.journal.add_records(newest)):
            assert_seeks(plan, key, "record_ranges")


@pytest.mark.parametrize("table", [WINDOWS, PERFORMANCE], ids=str)
def test_slots_of_a_time_are_found_among_all_that_is_old(store: Store, table: Table) -> None:
    hours = [(number * HOUR_MS, HOUR_MS) for number in range(2_000)]
    minutes = [(2_000 * HOUR_MS + number * 60_000, 60_000) for number in range(2_000)]
    with store.write() as tx:
        tx.devices.add([("cam", {})], 1)
        slots: Any = {"windows": tx.windows, "performance": tx.performance}[table.name]
        slots.add(SlotRow("cam", MANIFEST, *hours[0], EMPTY[table.name]))
        connection = tx.journal._connection
        row = dict(connection.execute(select(table)).mappings().one())
        rest = [
            row | {"start_unix_ms": start, "length_ms": length}
            for start, length in (*hours[1:], *minutes)
        ]
        connection.execute(insert(table), rest)
        analyse(tx)
        end = 2_000 * HOUR_MS
        recent = end + 1_990 * 60_000
        for plan in plans(tx, table.name, lambda: slots.roll_up(end, HOUR_MS, limit=10)):
            assert_seeks(plan, f"{table.name}_by_length", table.name, is_sorted=True)
        for work in (
            lambda: slots.manifests(end - HOUR_MS, end),
            lambda: slots.prune(HOUR_MS // 2),
        ):
            for plan in plans(tx, table.name, work):
                assert_seeks(plan, f"{table.name}_by_length", table.name)
        if table is PERFORMANCE:
            for plan in plans(tx, table.name, lambda: tx.performance.totals(recent)):
                assert_seeks(plan, f"{table.name}_by_length", table.name)
        # what there is to merge: of each length, as many as asked for in all
        assert slots.roll_up(end, HOUR_MS, limit=40) == 0
        assert slots.roll_up(end + HOUR_MS, HOUR_MS, limit=40) == 40
        assert slots.roll_up(end + HOUR_MS, HOUR_MS, limit=40) == 20
        assert slots.roll_up(end + HOUR_MS, 24 * HOUR_MS, limit=4_000) == 2_000
        assert slots.manifests(0, end + HOUR_MS) == [MANIFEST]
        left = slots.rows(MANIFEST, Selection(), since_unix_ms=0, until_unix_ms=end + HOUR_MS)
        assert {found.length_ms for found in left} == {24 * HOUR_MS}
        slots.prune(end)
        assert slots.manifests(0, end) == []
