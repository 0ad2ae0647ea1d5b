"""Starts are counted across lives of the agent, whatever the file holds."""

import pytest

from agent.adapters.starts import FAILED, NAME, FailedStarts, StartCounter, Starts, read_starts
from agent.core.backoff import (
    CONNECT_CAP_S,
    FAILED_CAP_S,
    connect_delay_s,
    failed_start_delay_s,
)


def test_only_a_start_after_no_orderly_stop_is_a_restart(tmp_path):
    first = StartCounter(tmp_path)
    assert first.begin() == Starts(restart_count=0, in_a_row=0, is_up=True)
    for number in (1, 2, 3):  # each finds the one before it killed
        assert StartCounter(tmp_path).begin() == Starts(number, number, is_up=True)
    stopped = StartCounter(tmp_path)
    stopped.ended()
    assert read_starts(tmp_path) == Starts(3, 0, is_up=False)
    assert StartCounter(tmp_path).begin() == Starts(3, 0, is_up=True)


def test_one_that_stayed_up_ends_the_row_and_not_the_count(tmp_path):
    StartCounter(tmp_path).begin()
    second = StartCounter(tmp_path)
    second.begin()
    second.settled()
    assert read_starts(tmp_path) == Starts(1, 0, is_up=True)
    assert StartCounter(tmp_path).begin() == Starts(2, 1, is_up=True)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"restart_count": -1}', b"\0" * 60, b"\xff"])
def test_a_damaged_count_begins_again(tmp_path, body):
    (tmp_path / NAME).write_bytes(body)
    assert StartCounter(tmp_path).begin() == Starts(0, 0, is_up=True)


def test_what_cannot_be_written_is_not_counted_and_stops_nothing(tmp_path):
    counter = StartCounter(tmp_path / "gone")
    assert counter.begin() == Starts(0, 0, is_up=True)
    counter.ended()
    assert read_starts(tmp_path / "gone") == Starts()


def test_the_delay_grows_from_the_fourth_in_a_row_on_and_has_an_end():
    delays_s = [connect_delay_s(in_a_row) for in_a_row in range(12)]
    assert delays_s == [0, 0, 0, 0, 2, 4, 8, 16, 32, 64, 128, 256]
    assert connect_delay_s(12) == connect_delay_s(10**9) == CONNECT_CAP_S


def test_a_failed_start_is_repeated_ever_more_seldom():
    delays_s = [failed_start_delay_s(in_a_row) for in_a_row in range(9)]
    assert delays_s == [0, 0, 0, 0, 2, 4, 8, 16, 32]
    assert failed_start_delay_s(9) == failed_start_delay_s(10**9) == FAILED_CAP_S


def service(folder):
    return {"RUNTIME_DIRECTORY": f"{folder}:/run/other", "NOTIFY_SOCKET": "/run/notify"}


def test_failed_starts_are_counted_until_one_serves(tmp_path):
    assert [FailedStarts(service(tmp_path)).count() for _ in range(3)] == [1, 2, 3]
    FailedStarts(service(tmp_path)).forget()
    assert FailedStarts(service(tmp_path)).count() == 1


@pytest.mark.parametrize("body", [b"", b"x", b"-7", b"\xff" * 99, b"1\0", b"9" * 99])
def test_a_damaged_count_of_failed_starts_strands_nobody(tmp_path, body):
    (tmp_path / FAILED).write_bytes(body)
    assert FailedStarts(service(tmp_path)).count() > 0


@pytest.mark.parametrize("key", ["RUNTIME_DIRECTORY", "NOTIFY_SOCKET"])
def test_where_nobody_starts_it_again_nothing_is_counted(tmp_path, key):
    environ = {k: v for k, v in service(tmp_path).items() if k != key}
    assert FailedStarts(environ).count() == 0
    FailedStarts(environ).forget()
    assert list(tmp_path.iterdir()) == []


def test_failed_starts_that_cannot_be_written_are_each_the_first(tmp_path):
    assert FailedStarts(service(tmp_path / "gone")).count() == 1
    FailedStarts(service(tmp_path / "gone")).forget()
