"""The audit log: every way to tamper with it is found, and the first bad row is named."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from fleet import audit
from fleet.api.app import build_app
from fleet.core.audit import Row, first_fault
from fleet.core.rights import Role
from tests.fleet.audit_log import (
    COUNT,
    Log,
    Tamper,
    delete,
    delete_first,
    edit,
    edit_and_sum,
    empty,
    insert,
    reorder,
    rewrite,
    rewrite_and_grow,
    truncate,
)
from tests.fleet.peers import Fleet
from wire.errors import ConfigError


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path)
    yield log
    log.store.close()


@pytest.mark.parametrize(
    ("tamper", "first_bad"),
    [
        (edit, 7),
        (edit_and_sum, 7),
        (delete, 7),
        (delete_first, 1),
        (insert, 7),
        (reorder, 7),
        (truncate, 7),
        (empty, 1),
        (rewrite, 7),
        (rewrite_and_grow, 7),
    ],
)
def test_what_was_done_to_the_log_is_found_at_its_first_row(
    log: Log, tamper: Tamper, first_bad: int
) -> None:
    assert log.verify() == audit.Verdict(None, COUNT, 2, 0)
    log.write(tamper(log.entries()))
    fault = log.verify().fault
    assert fault is not None
    assert fault.seq == first_bad, fault
    log.witness().look(10**9, is_last=True)  # nor does a controller that goes on make it good
    again = log.verify().fault
    assert again is not None
    assert again.seq == first_bad, again


@pytest.mark.parametrize(
    ("tamper", "first_bad"),
    [
        (edit, 7),
        (edit_and_sum, 8),
        (delete, 7),
        (delete_first, 1),
        (insert, 8),
        (reorder, 7),
        # What only checkpoints show.
        (truncate, None),
        (rewrite, None),
    ],
)
def test_the_chain_alone_shows_what_a_chain_can(
    log: Log, tamper: Tamper, first_bad: int | None
) -> None:
    fault = first_fault(tamper(log.entries()), [])
    assert (fault.seq if fault else None) == first_bad


def test_a_checkpoint_of_another_key_is_named(log: Log) -> None:
    lines = log.checkpoints.read_text().splitlines()
    forged = lines[-1].replace('"seq":12', '"seq":11')
    assert forged != lines[-1]
    log.checkpoints.write_text("\n".join([*lines, forged]))
    fault = log.verify().fault
    assert fault is not None
    assert "line 5" in fault.why


def test_a_line_that_a_crash_tore_costs_that_line_only(log: Log) -> None:
    remembered = log.memory.read_bytes()
    log.add(1)
    log.witness().look(2, is_last=True)
    # The power was cut before the line was on disk, and so before it was remembered.
    log.checkpoints.write_text(log.checkpoints.read_text()[:-40])
    log.memory.write_bytes(remembered)
    log.witness().look(3, is_last=True)
    assert log.verify() == audit.Verdict(None, COUNT + 1, 3, 0)
    assert log.alarms() == []


def test_checkpoints_come_by_count_by_age_and_once_a_day(log: Log) -> None:
    witness, now = log.witness(), 10
    for count, later_ms, is_due in (
        (1, 1_000, False),
        (audit.EVERY_ROWS - 1, 0, True),
        (1, audit.OPEN_MS + 10, True),
        (0, audit.ALIVE_MS - 1, False),
        (0, 1, True),
    ):
        before = log.verify(now).checkpoint_count
        with log.store.write() as tx:
            for _ in range(count):
                tx.audit.append(Row(now, "ann", "POST /v1/rollouts", "", "done"))
        now += later_ms
        witness.look(now)
        assert log.verify(now).checkpoint_count - before == is_due, (count, later_ms)
    assert log.verify(now).open_count == 0


def test_a_disk_that_refuses_checkpoints_stops_nothing_and_they_follow(
    log: Log, tmp_path: Path
) -> None:
    log.checkpoints.rename(tmp_path / "audit.checkpoints.kept")
    log.checkpoints = tmp_path / "away" / "audit.checkpoints"
    log.checkpoints.parent.mkdir()
    (tmp_path / "audit.checkpoints.kept").rename(log.checkpoints)
    witness = log.witness()
    log.checkpoints.parent.rename(tmp_path / "gone")
    log.add(2 * audit.EVERY_ROWS)
    witness.look(1, is_last=True)
    (tmp_path / "gone").rename(log.checkpoints.parent)
    witness.look(2, is_last=True)
    assert log.verify() == audit.Verdict(None, COUNT + 2 * audit.EVERY_ROWS, 4, 0)
    assert max(map(len, log.checkpoints.read_text().splitlines())) < 2000, (
        "it fits into a log's line"
    )


def test_the_key_is_made_once_and_a_strange_one_is_refused(log: Log) -> None:
    before = (log.folder / audit.PUBLIC_FILE).read_bytes()
    audit.found(log.folder, log.folder, log.store)
    assert (log.folder / audit.PUBLIC_FILE).read_bytes() == before
    assert (log.folder / "trust" / audit.KEY_FILE).stat().st_mode & 0o077 == 0
    (log.folder / audit.PUBLIC_FILE).write_text("00")
    with pytest.raises(ConfigError):
        log.verify()


def test_a_change_and_its_row_are_one_transaction_and_refusals_have_theirs(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    api = TestClient(build_app(fleet.controller), raise_server_exceptions=False)
    bob = fleet.bearer("bob", Role.OPERATOR)
    ann = fleet.bearer("ann")
    api.post("/v1/devices", json={"id": "cam"}, headers=ann)
    api.post("/v1/devices", json={"id": "cam"}, headers=ann)
    api.post("/v1/devices", json={"id": "no id"}, headers=ann)
    api.post("/v1/devices", json={"id": "x"}, headers=bob)
    api.get("/v1/devices", headers=bob)
    for _ in range(50):
        api.get("/v1/devices", headers={"authorization": "Bearer mft_guess"})
    fleet.now_unix_ms += 60_000
    api.get("/v1/devices", headers={"authorization": "Bearer mft_guess"})
    rows = api.get("/v1/audit", headers=ann).json()
    said = [(row["who"], row["subject"], row["outcome"], row["code"]) for row in reversed(rows)]
    assert said == [
        ("ann", "cam", "done", ""),
        ("ann", "cam", "refused", "device_exists"),
        ("ann", "", "refused", "invalid_request"),
        ("bob", "", "denied", "no_right"),
        ("", "from testclient", "denied", "token_unknown"),
        ("", "from testclient, and 49 more before", "denied", "token_unknown"),
    ]
    # A store in which no row can be added takes no change either.
    with sqlite3.connect(tmp_path / "fleet.db") as raw:
        raw.execute(
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'x'); END"
        )
    assert api.post("/v1/devices", json={"id": "later"}, headers=ann).status_code == 503
    assert [d["id"] for d in api.get("/v1/devices", headers=ann).json()] == ["cam"]
    fleet.controller.stop()
    fleet.store.close()
