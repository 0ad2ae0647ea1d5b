"""The audit log's witness: what was taken from its file, and when it begins anew."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fleet import audit
from fleet.checkpoints import MEMORY_FILE
from fleet.cli.main import app
from fleet.core.audit import Row
from fleet.store.store import Store
from tests.fleet.audit_log import COUNT, Log, edit, edit_and_sum_all, rewrite
from wire.errors import StorageError


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path)
    yield log
    log.store.close()


def drop(log: Log) -> None:
    log.checkpoints.unlink()


def clear(log: Log) -> None:
    log.checkpoints.write_text("")


def garble(log: Log) -> None:
    log.checkpoints.write_bytes(log.checkpoints.read_bytes().replace(b"{", b"#"))


def take_first(log: Log) -> None:
    log.checkpoints.write_text(log.checkpoints.read_text().split("\n\n")[1])


def take_last(log: Log) -> None:
    log.checkpoints.write_text(log.checkpoints.read_text().split("\n\n")[0])


def put_old_line_last(log: Log) -> None:
    """Have the newest line be of row 5: what follows would be signed again."""
    first, last = log.checkpoints.read_text().strip().split("\n\n")
    log.checkpoints.write_text(f"{last}\n{first}\n")


@pytest.mark.parametrize(
    ("take", "first_bad", "words"),
    [
        (drop, 1, "there is no such file"),
        (clear, 1, "no line of it is a checkpoint"),
        (garble, 1, "no line of it is a checkpoint"),
        (take_first, 1, "rows 1 to 5 have no checkpoint"),
        (take_last, 6, "rows from 6 on have no checkpoint"),
    ],
)
def test_rows_that_nothing_witnesses_are_a_fault_wherever_it_is_verified(
    log: Log, take: Callable[[Log], None], first_bad: int, words: str
) -> None:
    take(log)
    later = COUNT + audit.OLD_MS
    for fault in (log.verify(later).fault, log.elsewhere(later).fault):
        assert fault is not None
        assert "fleet audit begin" in fault.hint
    assert fault.seq == first_bad, fault
    assert words in fault.why


@pytest.mark.parametrize("take", [drop, clear, garble, take_first, take_last])
def test_a_log_that_was_written_anew_is_never_signed_as_if_it_had_been_seen(
    log: Log, take: Callable[[Log], None]
) -> None:
    entries = log.entries()
    take(log)
    log.write(rewrite(entries) if take is not take_last else edit_and_sum_all(entries))
    log.witness().look(20, is_last=True)
    assert len(log.alarms()) == 1
    log.add(3)
    log.witness().look(30, is_last=True)
    assert len(log.alarms()) == 1, "told once"
    for verdict in (log.verify(30), log.elsewhere(30)):
        assert verdict.fault is not None, "and is there until somebody acknowledges it"
    log.begin("seen, and kept", 40)
    assert (found := log.verify(40)).fault is None
    assert found.beginning is not None
    assert found.beginning.why == "seen, and kept"
    log.add(1)
    log.witness().look(50, is_last=True)
    assert log.verify(50).fault is None
    assert log.elsewhere(50).fault is None


def test_the_mark_of_what_was_lost_outlives_the_file_that_it_is_in(log: Log) -> None:
    drop(log)
    log.write([])
    log.witness().look(20, is_last=True)
    log.add(3)
    log.witness().look(30, is_last=True)
    assert log.elsewhere(30).fault is not None
    lines = [t for t in log.checkpoints.read_text().splitlines() if "begins_after" not in t]
    log.checkpoints.write_text("\n".join(lines))
    fault = log.verify(30).fault
    assert fault is not None
    assert "not vouched for" in fault.why


def test_a_running_witness_sees_that_what_it_witnessed_is_gone(log: Log) -> None:
    witness = log.witness()
    witness.look(20)
    log.write(rewrite(log.entries())[:8])
    witness.look(21)
    assert log.alarms() == [
        "not vouched for up to row 8: row 12 is missing; `fleet audit verify` says what to do"
    ]
    log.write(edit_and_sum_all(log.entries()))
    witness.look(22)
    assert "row 8 is another than was witnessed" in log.alarms()[1]


def test_lines_in_another_order_have_nothing_signed_again(log: Log) -> None:
    put_old_line_last(log)
    log.add(1)
    log.witness().look(20, is_last=True)
    assert '"first":13' in log.checkpoints.read_text()
    assert log.verify(20).fault is None


def test_rows_that_came_while_no_controller_ran_are_witnessed_by_the_next(log: Log) -> None:
    log.add(3)
    old = COUNT + 10 * audit.OLD_MS
    fault = log.verify(old).fault
    assert fault is not None
    assert fault.seq == COUNT + 1
    assert "start the controller" in fault.hint
    log.witness().look(old)
    assert log.verify(old) == audit.Verdict(None, COUNT + 3, 3, 0)
    assert log.alarms() == []


def test_a_new_fleet_is_whole_before_its_first_checkpoint_and_not_for_long(tmp_path: Path) -> None:
    store = Store(tmp_path / "fleet.db", tmp_path)
    audit.found(tmp_path, tmp_path, store)
    with store.write() as tx:
        tx.audit.append(Row(0, "local", "token", "admin", "done"))
    memory, public = tmp_path / "trust" / MEMORY_FILE, tmp_path / audit.PUBLIC_FILE
    path = tmp_path / "audit.checkpoints"
    assert audit.verify(store, path, public, 10, memory_path=memory).fault is None
    assert audit.verify(store, path, public, 10).fault is not None
    assert audit.verify(store, path, public, 10**6, memory_path=memory).fault is not None
    audit.Witness(store, tmp_path / "trust" / audit.KEY_FILE, path).look(20, is_last=True)
    assert audit.verify(store, path, public, 10).fault is None
    store.close()


@pytest.mark.parametrize("has_file", [True, False])
def test_a_fleet_of_before_the_memory_goes_on_if_its_checkpoints_are_there(
    log: Log, *, has_file: bool
) -> None:
    log.memory.unlink()
    if not has_file:
        drop(log)
    log.witness().look(20, is_last=True)
    assert log.memory.exists()
    assert bool(log.alarms()) is not has_file
    assert (log.verify(20).fault is None) is has_file


def test_a_backup_that_was_set_back_is_begun_anew_by_a_person(log: Log) -> None:
    backup = log.entries()[:8]
    log.write(backup)
    log.add(2)
    log.witness().look(20, is_last=True)
    fault = log.verify(20).fault
    assert fault is not None
    assert fault.seq == 9
    log.begin("Tuesday's backup")
    log.add(5)
    log.witness().look(30, is_last=True)
    assert log.verify(30).fault is None
    # What the beginning pins cannot be changed any more.
    log.write(edit_and_sum_all(log.entries()))
    assert log.elsewhere(30).fault is not None


def test_nobody_begins_with_rows_that_contradict_each_other(log: Log) -> None:
    log.write(edit(log.entries()))
    with pytest.raises(StorageError) as refusal:
        log.begin()
    assert refusal.value.code == "audit_broken"


def test_a_beginning_while_a_controller_runs_leaves_no_gap(log: Log) -> None:
    witness = log.witness()
    witness.look(20)
    log.add(2)
    log.begin(now=21)
    log.add(2)
    witness.look(22, is_last=True)
    assert log.verify(22).fault is None
    assert log.elsewhere(22).open_count == 0


def test_a_memory_that_is_damaged_is_no_memory(log: Log) -> None:
    log.memory.write_text('{"seq": 3}')
    fault = log.verify().fault
    assert fault is not None
    assert "damaged" in fault.why
    log.witness().look(20)
    assert "damaged" in log.alarms()[0]


def test_lines_out_of_the_systems_log_are_checkpoints(log: Log) -> None:
    text = log.checkpoints.read_text()
    prefix = "Nov 29 02:00:00 host modelfleet: audit checkpoint "
    log.checkpoints.write_text("".join(f"{prefix}{t}\n" for t in text.split("\n") if t))
    assert log.elsewhere() == audit.Verdict(None, COUNT, 2, 0)


def test_the_command_says_what_to_do_and_a_person_begins_anew(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    (log.folder / "fleet.toml").write_text('[store]\ndir = "."\n')
    monkeypatch.chdir(log.folder)
    run = CliRunner().invoke
    drop(log)
    told = json.loads(run(app, ["audit", "verify", "--json"]).stdout)
    assert (told["is_whole"], told["first_bad_row"]) == (False, 1)
    assert "fleet audit begin" in told["hint"]
    assert run(app, ["audit", "begin", "--why", " \n", "--yes"]).exit_code == 2
    assert run(app, ["audit", "begin", "--why", "the disk died", "--yes"]).exit_code == 0
    done = run(app, ["audit", "verify"])
    assert done.exit_code == 0, done.output
    assert "rows up to 13 as they were on" in done.stdout
    assert "the disk died" in done.stdout
    assert log.entries()[-1].subject == "the disk died"
