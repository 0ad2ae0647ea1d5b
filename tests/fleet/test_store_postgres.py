"""What only a server has: it goes away, has other users, keeps to its own rules."""

import contextlib
import signal
import subprocess
import sys

import psycopg
import pytest

from fleet.store import database, postgres
from fleet.store.devices import Selection
from fleet.store.journal import EventRow
from fleet.store.store import Store
from tests.fleet.peers import Fleet
from tests.postgres import Cluster, need_postgres
from wire.errors import ConfigError, StorageError

pytestmark = pytest.mark.postgres


@pytest.fixture
def own():
    """A server of this test's own, which it may stop."""
    need_postgres()
    cluster = Cluster()
    yield cluster
    cluster.remove()


@pytest.fixture
def url(cluster):
    return cluster.database()


@pytest.fixture
def store(url, tmp_path):
    store = Store(url, tmp_path)
    yield store
    store.close()


@pytest.fixture
def make_fleet(tmp_path):
    made = []

    def make(url, name="one"):
        made.append(Fleet(tmp_path / name, where=url))
        made[-1].settle()
        return made[-1]

    yield make
    for fleet in made:
        fleet.controller.stop()
        fleet.store.close()


@contextlib.contextmanager
def refused(code, *words):
    with pytest.raises(StorageError) as caught:
        yield
    assert caught.value.code == code, caught.value
    for word in words:
        assert word in f"{caught.value} {caught.value.hint}"


def write_something(store, text="x"):
    with store.write() as tx:
        tx.journal.note([EventRow("device", "cam", text)], 1)


def texts(store):
    with store.read() as tx:
        return [event.text for event in tx.journal.events(0, 99)]


def backends(cluster, url):
    """Return the server's processes that have a store's connections to this database."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name LIKE 'modelfleet%%'"
    return [
        pid for (pid,) in cluster.execute(query, psycopg.conninfo.conninfo_to_dict(url)["dbname"])
    ]


# -- away and back


def test_a_controller_rides_out_a_restart_of_the_server_and_loses_no_record(own, make_fleet):
    fleet = make_fleet(own.database())
    fleet.add("cam", "gone")
    cam = fleet.devices["cam"]
    own.stop()
    cam.send_record(1)
    fleet.controller.run_once()
    fleet.controller.run_once()
    assert cam.acks == []
    with refused("store_unreachable", "start the server"):
        write_something(fleet.store)
    fleet.devices["gone"].cut()
    fleet.controller.run_once()
    own.start()
    fleet.wait(2)
    # Asked for again: it was said while nobody could note it.
    assert (fleet.presence("cam"), fleet.presence("gone")) == ("online", "offline")
    cam.send_record(1)  # the outbox sends what was not acknowledged
    fleet.settle()
    with fleet.store.read() as tx:
        assert [row.key.seq for row in tx.journal.records("cam", channel=None, limit=9)] == [1]
    assert [(r.first, r.last) for ack in cam.acks for r in ack.stored] == [(1, 1)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_the_first_transaction_after_a_restart_works(own, tmp_path, number):
    store = Store(own.database(), tmp_path, is_sole=True)
    write_something(store, "before")
    assert texts(store) == ["before"]
    own.stop(number)
    own.start()
    assert texts(store) == ["before"]
    write_something(store, "after")
    assert texts(store) == ["before", "after"]
    store.close()


def test_a_transaction_that_was_under_way_is_undone(own, tmp_path):
    store = Store(own.database(), tmp_path, is_sole=True)
    with refused("store_unreachable"), store.write() as tx:
        tx.devices.add([("cam", {})], 1)
        own.stop(signal.SIGQUIT)
        own.start()
        tx.devices.add([("cam-2", {})], 1)
    with store.read() as tx:
        assert tx.devices.ids(Selection()) == []
    store.close()


def test_a_server_that_is_not_there_is_named_without_the_password(tmp_path):
    url = f"postgresql://fleet:hush@/fleet?host={tmp_path}"
    with pytest.raises(StorageError, match="cannot reach postgresql://fleet@") as caught:
        Store(url, tmp_path)
    assert caught.value.code == "store_unreachable"
    assert "hush" not in f"{caught.value} {caught.value.hint} {caught.getrepr(style='short')}"


@pytest.mark.parametrize("url", ["postgresql://h/x?no_such=1", "postgresql://[h/x", "nonsense"])
def test_a_url_that_libpq_cannot_read_is_refused(tmp_path, url):
    with pytest.raises(ConfigError) as caught:
        Store(url, tmp_path)
    assert caught.value.code == "store_url"


WITHOUT_DRIVER = """
import sys
sys.modules["psycopg"] = None
from pathlib import Path
from fleet.store.store import Store
from wire.errors import ConfigError
try:
    Store("postgresql://h/x", Path())
except ConfigError as exc:
    print(exc.code, exc.hint)
"""


def test_a_driver_that_is_not_installed_is_named():
    command = [sys.executable, "-c", WITHOUT_DRIVER]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told == "postgres_missing pip install 'modelfleet[fleet,postgres]'\n"


# -- one controller


def test_a_store_has_one_controller(url, tmp_path):
    first = Store(url, tmp_path, is_sole=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "BUSY_TIMEOUT_MS", 100)
        with refused("store_taken", "this machine", "end that one first"):
            Store(url, tmp_path, is_sole=True)
        person = Store(url, tmp_path)  # `fleet audit verify`, `fleet token recover`
        write_something(person)
        person.close()
    write_something(first)
    first.close()
    Store(url, tmp_path, is_sole=True).close()


def test_a_controller_whose_connection_was_cut_takes_its_place_again(cluster, url, tmp_path):
    store = Store(url, tmp_path, is_sole=True)
    for pid in backends(cluster, url):
        cluster.execute("SELECT pg_terminate_backend(%s)", pid)
    write_something(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "BUSY_TIMEOUT_MS", 100)
        with refused("store_taken"):
            Store(url, tmp_path, is_sole=True)
    store.close()


def test_a_controller_ends_its_own_connection_that_the_server_has_not_missed(url, tmp_path):
    """As when the network was gone: the server still holds the former connection, and its lock."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "BUSY_TIMEOUT_MS", 100)
        store = Store(url, tmp_path, is_sole=True)
    with store._database.writer.connect() as connection:
        lost = connection.connection.dbapi_connection
        connection.detach()
        write_something(store)
        with pytest.raises(psycopg.OperationalError):
            lost.execute("SELECT 1")
    store.close()


def test_a_controller_that_lost_its_place_to_another_ends(cluster, url, make_fleet, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "BUSY_TIMEOUT_MS", 100)
        fleet = make_fleet(url)
    fleet.add("cam")
    for pid in backends(cluster, url):
        cluster.execute("SELECT pg_terminate_backend(%s)", pid)
    other = Store(url, tmp_path, is_sole=True)
    fleet.devices["cam"].send_record(1)
    with refused("store_taken"):
        fleet.controller.run()
    assert fleet.devices["cam"].acks == []
    other.close()


# -- other users of the server


def test_a_writer_that_waits_in_vain_for_another_says_so(cluster, url, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 100)
    store = Store(url, tmp_path)
    with contextlib.closing(cluster.connect(url)) as person:
        person.execute("SELECT pg_advisory_lock(%s)", (postgres.WRITING,))
        with refused("store_locked", "pg_stat_activity"):
            write_something(store)
        assert texts(store) == []  # what is there can be read
    write_something(store)
    store.close()


def test_a_table_that_is_locked_is_told(cluster, url, tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 100)
    store = Store(url, tmp_path)
    with contextlib.closing(cluster.connect(url)) as person, person.transaction():
        person.execute("LOCK TABLE events")
        with refused("store_locked"):
            write_something(store)
    write_something(store)
    store.close()


def test_a_full_disk_of_the_server_is_told(cluster, url, store):
    """The server's own error, raised by a trigger: filling its disk would harm the other tests."""
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    body = "BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END"
    for statement in (
        f"CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$",
        "CREATE TRIGGER full_disk BEFORE INSERT ON events EXECUTE FUNCTION full_disk()",
    ):
        cluster.execute(statement, database=name)
    with refused("store_full", "free some disk space there"):
        write_something(store)
    assert texts(store) == []


def test_a_standby_cannot_be_written(cluster, url, tmp_path):
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    cluster.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    store = Store(url, tmp_path)
    with refused("store_unwritable", "standby"):
        write_something(store)
    assert texts(store) == []
    store.close()


def test_a_user_without_rights_is_told(cluster, tmp_path):
    cluster.execute("DROP ROLE IF EXISTS guest")
    cluster.execute("CREATE ROLE guest LOGIN")
    url = cluster.database(is_empty=True).replace("//fleet@", "//guest@")
    with refused("store_unwritable", "permission denied"):
        Store(url, tmp_path)


def test_a_database_in_another_encoding_is_refused(cluster, tmp_path):
    cluster.execute(
        "CREATE DATABASE ascii TEMPLATE template0 ENCODING SQL_ASCII LOCALE 'C' LOCALE_PROVIDER libc"
    )
    with refused("store_unreadable", "SQL_ASCII", "UTF8"):
        Store(cluster.url("ascii"), tmp_path)


def test_a_commit_is_on_disk_whatever_the_database_says(cluster, url, tmp_path):
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    cluster.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    store = Store(url, tmp_path)
    with store._database.writer.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    store.close()


def test_the_password_comes_from_where_libpq_looks(own, tmp_path, monkeypatch):
    url = own.database(is_empty=True)
    own.execute("ALTER ROLE fleet PASSWORD 'hush'")
    name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
    rules = own.folder / "data" / "pg_hba.conf"
    rules.write_text(f"local {name} all scram-sha-256\nlocal all all trust\n")
    own.stop()
    own.start()
    with refused("store_unreachable", "password", "PGPASSFILE"):
        Store(url, tmp_path)
    (tmp_path / "pgpass").write_text(f"*:*:{name}:fleet:hush\n")
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    Store(url, tmp_path).close()


# -- its own rules


def test_a_value_that_it_cannot_hold_is_the_sender_s_fault(store):
    with pytest.raises(ValueError, match="cannot hold"), store.write() as tx:
        tx.devices.add([("cam", {})], 2**63)
    write_something(store, "x" * 10_000)  # longer than any length in the schema
    assert texts(store) == ["x" * 10_000]


def test_a_nul_is_kept_as_a_sign_that_there_was_one(store):
    write_something(store, "a\0b")
    assert texts(store) == ["a\ufffdb"]
    with store.read() as tx:
        assert tx.devices.known(["\0"]) == set()
