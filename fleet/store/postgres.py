"""The store on PostgreSQL, through psycopg: libpq reads the URL, so all of libpq's ways work.

A transaction that writes takes an advisory lock first, as SQLite's BEGIN IMMEDIATE takes its own:
the order of commits is then that of the numbers given in them, and of two processes that write one
waits. A controller's connection for writing holds a second one for as long as it lives. A
controller whose connection is gone cannot write any more, and before it can again it needs that
lock again; so two of them never write in turns, whatever happened to the network.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from wire.errors import ConfigError, StorageError

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
except ImportError as _exc:
    raise ConfigError(
        "[store] url names PostgreSQL, and its driver is not installed",
        code="postgres_missing",
        hint="pip install 'modelfleet[fleet,postgres]'",
    ) from _exc

log = logging.getLogger(__name__)

LEASE: Final = 0x6D66_0001
"""Of the advisory lock that a controller holds; "mf", then a number."""
WRITING: Final = 0x6D66_0002
"""Of the one that a writing transaction holds."""
PROGRAM: Final = "modelfleet"
LOCKED: Final = frozenset({"55P03", "40P01"})
"""lock_not_available, deadlock_detected."""
FULL: Final = frozenset({"53100"})
UNWRITABLE: Final = frozenset({"25006", "42501"})
"""read_only_sql_transaction (a standby), insufficient_privilege."""
AWAY: Final = ("08", "57P")
"""Connection exceptions; shut down, crashed, not up yet. Other losses come without any state."""
PATIENCE: Final = {
    "connect_timeout": 5,
    # A host that is gone without a word is noticed after about 15 s, not after hours.
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""libpq's, in seconds but for the last (ms), where the URL says nothing of them."""
HOLDER: Final = """
    SELECT a.pid, a.application_name, coalesce(host(a.client_addr), 'this machine')
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 0 AND l.objid = %s
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class PostgresDatabase:
    """See `fleet.store.database.Database`."""

    unreadable_hint = "[store] url must name a database in UTF8 that is this fleet's alone, and a user who owns it"
    failed_hint = "the server's log says more; nothing was half written"

    def __init__(self, url: str, busy_timeout_ms: int, *, is_sole: bool) -> None:
        """Read the URL.

        Raises:
            ConfigError: `store_url`.
        """
        self._arguments = _arguments(url)
        self.name = _shown(self._arguments)
        self._busy_timeout_ms = busy_timeout_ms
        self._program = f"{PROGRAM} {secrets.token_hex(4)}"
        self.writer = _engine(self._connect_sole if is_sole else self._connect, pool_size=1)
        self.reader = _engine(self._connect_reader, pool_size=8)
        event.listen(self.writer, "begin", _take_turn)

    def check(self, connection: Connection) -> None:
        """See `fleet.store.database.Database.check`."""
        query = "SELECT current_setting('server_encoding'), current_setting('fsync')"
        encoding, fsync = connection.exec_driver_sql(query).one()
        if encoding != "UTF8":
            raise StorageError(
                f"{self.name} is in {encoding}, and devices may say anything",
                code="store_unreadable",
                hint=self.unreadable_hint,
            )
        if fsync != "on":
            log.warning("%s runs with fsync = off: a power cut may cost what it has", self.name)

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        """Begin a transaction in which tables may be made anew: one like any other here."""
        with self.writer.begin() as connection:
            yield connection

    def fault(self, exc: SQLAlchemyError) -> StorageError | None:
        """See `fleet.store.database.Database.fault`."""
        said = getattr(exc, "orig", None)
        if not isinstance(said, psycopg.Error):
            return None
        state, words = said.sqlstate, " ".join(str(said).split())[:200]
        if state in LOCKED:
            return StorageError(
                f"{self.name} is locked by another program",
                code="store_locked",
                hint="`SELECT * FROM pg_stat_activity` names it; end it, then try again: nothing was"
                " changed",
            )
        if state in FULL:
            return StorageError(
                f"cannot write {self.name}: the server's disk is full",
                code="store_full",
                hint="free some disk space there, then try again: nothing was changed",
            )
        if state in UNWRITABLE:
            return StorageError(
                f"cannot write {self.name}: {words}",
                code="store_unwritable",
                hint="is it a standby, or another user's? nothing was changed",
            )
        is_lost = isinstance(said, psycopg.OperationalError) and state is None
        if is_lost or (state is not None and state.startswith(AWAY)):
            hint = "start the server; what was under way is done or not: look, then try again"
            if "password" in words or "authentication" in words:
                hint = "the password comes from PGPASSFILE or PGPASSWORD, as libpq has it"
            return StorageError(
                f"cannot reach {self.name}: {words}", code="store_unreachable", hint=hint
            )
        return None

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self.writer.dispose()
        self.reader.dispose()

    def _connect(self) -> psycopg.Connection:
        settings = {
            # Waiting for a lock may end; so may the session of a controller that fell silent.
            "lock_timeout": self._busy_timeout_ms,
            "tcp_keepalives_idle": 5,
            "tcp_keepalives_interval": 3,
            "tcp_keepalives_count": 3,
        }
        connection = psycopg.connect(
            **self._arguments, application_name=self._program, autocommit=True
        )
        try:
            for name, value in settings.items():
                connection.execute("SELECT set_config(%s, %s, false)", (name, str(value)))
            # What is acknowledged must be on disk, whatever the server's or the user's default is.
            connection.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_reader(self) -> psycopg.Connection:
        connection = self._connect()
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        return connection

    def _connect_sole(self) -> psycopg.Connection:
        connection = self._connect()
        try:
            connection.autocommit = True
            self._hold_lease(connection)
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection

    def _hold_lease(self, connection: psycopg.Connection) -> None:
        """Take the controller's lock, which ends with the connection.

        Raises:
            StorageError: `store_taken`.
        """
        for _ in range(2):
            try:
                connection.execute("SELECT pg_advisory_lock(%s)", (LEASE,))
            except psycopg.errors.LockNotAvailable:
                holder = connection.execute(HOLDER, (LEASE,)).fetchone()
                if holder is None:
                    continue
                pid, program, host = holder
                if program != self._program:
                    raise self._taken(pid, host) from None
                # Our own connection of before, which the server has not missed yet.
                connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
            else:
                return
        raise self._taken(0, "unknown")

    def _taken(self, pid: int, host: str) -> StorageError:
        return StorageError(
            f"{self.name} has a controller: process {pid} of the server serves it, from {host}",
            code="store_taken",
            hint="a fleet has one controller at a time: end that one first",
        )


def _engine(connect: Callable[[], psycopg.Connection], *, pool_size: int) -> Engine:
    return create_engine(
        "postgresql+psycopg://",
        creator=connect,
        pool_size=pool_size,
        max_overflow=0 if pool_size == 1 else 32,
        pool_pre_ping=True,  # after a restart of the server the first transaction works, not the second
    )


def _take_turn(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITING})")


def _arguments(url: str) -> dict[str, Any]:
    try:
        given: dict[str, Any] = conninfo_to_dict(url)
    except psycopg.Error as exc:
        raise ConfigError(
            f"[store] url: {' '.join(str(exc).split())}",
            code="store_url",
            hint="postgresql://USER@HOST:PORT/DATABASE, as libpq has it",
        ) from exc
    return {**PATIENCE, **given, "client_encoding": "UTF8"}


def _shown(arguments: dict[str, Any]) -> str:
    """Name the database without a password, and without what is as long as one."""
    user, host = arguments.get("user", ""), arguments.get("host", "")
    port = f":{arguments['port']}" if "port" in arguments else ""
    place = f"{user}@{host}" if user else host
    tail = f"?service={arguments['service']}" if "service" in arguments else ""
    return f"postgresql://{place}{port}/{arguments.get('dbname', '')}{tail}"
