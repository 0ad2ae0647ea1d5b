"""How many telemetry records a second the controller takes in, beside plain SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
from fleets import Fleet
from models import Models
from programs import BENCHMARKS, BenchError, run
from result import Line, Outcome

from tests.postgres import BIN, Cluster

DEVICES = 2
WINDOW = 64
"""Of each device: what an agent has under way."""
CROWD = 50
BATCH = 512
"""Rows in one transaction of the floor: the most that the controller stores at once."""
PUBLISHER = BENCHMARKS / "publisher.py"


def measure(directory: Path, models: Models, *, is_quick: bool) -> Outcome:
    """Send and insert the same records, in turns; on PostgreSQL too, where it is installed."""
    runs, records = (2, 2000) if is_quick else (5, 4000)
    ours, floor, postgres = [], [], []
    with contextlib.ExitStack() as stack:
        fleet = stack.enter_context(Fleet(directory / "sqlite", is_open=True))
        store = next((fleet.directory / "store").glob("*.db"))
        other, url, version = _on_postgres(directory, stack)
        for one in (fleet, other) if other is not None else (fleet,):
            # By a publisher that speaks for all.
            one.add_devices([f"cam-{number:02}" for number in range(CROWD)])
        for number in range(runs):
            rate, rows = _rate(fleet, store, records)
            ours.append(rate)
            floor.append(len(rows) / _insert_s(store, directory / f"floor-{number}.db", rows))
            if other is not None:
                postgres.append(_rate(other, url, records)[0])
        each = max(WINDOW, records // CROWD)
        notes = [_crowd_note("SQLite", fleet, store, each)]
        if other is not None:
            notes.append(_crowd_note("PostgreSQL", other, url, each))
    lines = [Line("records, SQLite", "1/s", ours, "SQLite alone", floor, "higher")]
    if postgres:
        lines.append(Line("records, PostgreSQL", "1/s", postgres, "ours on SQLite", ours, "higher"))
    else:
        notes.append("PostgreSQL is not installed here, so it was not measured.")
    return Outcome(
        title="Telemetry into the store",
        how=(
            f"{DEVICES} devices send prebuilt records of about 400 bytes through the broker, each "
            f"with at most {WINDOW} that the controller has not acknowledged; a record counts "
            "when its acknowledgement, sent after the commit, is back. The floor is `executemany` "
            f"of the same rows into the same table and indexes, {BATCH} to a transaction, with the "
            "same durability (WAL, `synchronous=FULL`): no broker, no parsing, no answer. Beside it the "
            "same with the store on a PostgreSQL of this machine, on a socket, as it comes but for that "
            "(`fsync` and `synchronous_commit` on); its floor is what we do on SQLite."
        ),
        why=(
            "It is Python for each record; the larger batches of fifty devices share their transactions. "
            "Samples of what holds the interpreter's lock named the store's statements first, then the "
            "checks of every field, then paho. A thousand devices that report every minute send 33 "
            "records a second."
        ),
        lines=lines,
        notes=notes,
        versions={"PostgreSQL": version} if version else {},
    )


def _on_postgres(directory: Path, stack: contextlib.ExitStack) -> tuple[Fleet | None, str, str]:
    """Start a server and a fleet on it; return the fleet, the store's URL and the server's version."""
    if BIN is None:
        return None, "", ""
    server = Cluster(is_durable=True)
    stack.callback(server.remove)
    url = server.database(is_empty=True)
    fleet = stack.enter_context(Fleet(directory / "postgres", is_open=True, store_url=url))
    ((version,),) = server.execute("SHOW server_version")
    return fleet, url, version


def _rate(fleet: Fleet, store: Path | str, records: int) -> tuple[float, list[tuple[Any, ...]]]:
    boot = secrets.token_hex(8)
    sent = _send(fleet, DEVICES, records, WINDOW, boot)
    rows = _stored(store, boot)
    if sent["lost"] or len(rows) != DEVICES * records:
        raise BenchError(f"{sent['lost']} lost, {len(rows)} stored: {fleet.controller.tail()}")
    return len(rows) / sent["seconds"], rows


def _crowd_note(name: str, fleet: Fleet, store: Path | str, each: int) -> str:
    boot = secrets.token_hex(8)
    crowd = _send(fleet, CROWD, each, WINDOW, boot)
    kept = len(_stored(store, boot))
    return (
        f"{name}: {CROWD} devices that come back at once with {each} records each: "
        f"{kept / crowd['seconds']:,.0f} records a second, {crowd['lost']:,} lost by the broker "
        "on the way (an agent would send those again after 15 s)."
    )


def _send(fleet: Fleet, devices: int, records: int, window: int, boot: str) -> dict[str, Any]:
    counts = [str(fleet.broker_port), str(devices), str(records), str(window)]
    printed = run([sys.executable, PUBLISHER, *counts, boot], cwd=fleet.directory)
    sent: dict[str, Any] = json.loads(printed)
    return sent


def _stored(store: Path | str, boot: str) -> list[tuple[Any, ...]]:
    if isinstance(store, str):
        with psycopg.connect(store) as server:
            return server.execute("SELECT * FROM records WHERE boot = %s", (boot,)).fetchall()
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as db:
        return db.execute("SELECT * FROM records WHERE boot = ?", (boot,)).fetchall()


def _insert_s(store: Path, target: Path, rows: list[tuple[Any, ...]]) -> float:
    """Return the seconds that the rows take into a new file with the store's own schema."""
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as db:
        schema = [
            text
            for (text,) in db.execute(
                "SELECT sql FROM sqlite_master WHERE tbl_name = 'records' AND sql IS NOT NULL"
            )
        ]
    with sqlite3.connect(target, isolation_level=None) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        for text in schema:
            db.execute(text)
        places = ",".join("?" * len(rows[0]))
        began_s = time.perf_counter()
        for start in range(0, len(rows), BATCH):
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                f"INSERT INTO records VALUES ({places})",  # noqa: S608 - question marks alone
                rows[start : start + BATCH],
            )
            db.execute("COMMIT")
        return time.perf_counter() - began_s
