"""A PostgreSQL of the tests' own: Debian's programs, a cluster in a folder, a socket and no port."""

import contextlib
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fleet.store.store import Store

BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
OWNER = "postgres"
"""Whom Debian's package makes; PostgreSQL refuses to run as root."""
TEMPLATE = "store"
READY_S = 60
_numbers = count(1)


def need_postgres():
    """Skip where the programs are not, loudly; fail in CI, which has to have everything."""
    missing = next(
        (x for x in ("postgres", "initdb") if BIN is None or not (BIN / x).exists()), None
    )
    if missing is not None:
        reason = f"{missing} is not installed (Debian: postgresql-15)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"NOT TESTED: {reason}")


class Cluster:
    """One server. Made with the rules of a language, so that what leans on them sorts wrongly.

    Args:
        is_durable: Whether it syncs, for tests that kill it.
    """

    def __init__(self, *, is_durable=False):
        self.folder = Path(tempfile.mkdtemp(prefix="modelfleet-pg-"))
        self.log = self.folder / "server.log"
        self._process = None
        self._is_durable = is_durable
        self._user = OWNER if os.geteuid() == 0 else None
        if self._user:
            os.chown(self.folder, pwd.getpwnam(OWNER).pw_uid, -1)
        options = ["--auth=trust", "--username=fleet", "--encoding=UTF8", "--no-sync"]
        language = ["--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"]
        self._run("initdb", "-D", self.folder / "data", *options, *language)
        self.start()

    def start(self):
        """Start the server and return when it answers; it dies with the thread that started it."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": self.folder,
            "fsync": "on" if self._is_durable else "off",
            "max_connections": 200,
        }
        given = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig=KILL",
                    BIN / "postgres",
                    "-D",
                    self.folder / "data",
                    *given,
                ],
                user=self._user,
                extra_groups=[] if self._user else None,
                cwd=self.folder,
                stdout=output,
                stderr=output,
            )
        deadline_s = time.monotonic() + READY_S
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                assert self._process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline_s, self.log.read_text()
                time.sleep(0.05)
            else:
                return

    def stop(self, number=signal.SIGINT):
        """End it: SIGINT throws everybody out in good order, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(READY_S)
            self._process = None

    def remove(self):
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def url(self, name):
        """Return how a database is named in fleet.toml."""
        return f"postgresql://fleet@/{name}?host={self.folder}"

    def database(self, *, is_empty=False):
        """Make a database, with the tables of a new store or without any; return its URL."""
        if is_empty:
            return self._make("template0")
        if not self.execute("SELECT 1 FROM pg_database WHERE datname = %s", TEMPLATE):
            self._make("template0", TEMPLATE)
            with tempfile.TemporaryDirectory() as folder:
                Store(self.url(TEMPLATE), Path(folder)).close()
        return self._make(TEMPLATE)

    def execute(self, query, *values, database="postgres"):
        """Run a statement as a person would, and return its rows."""
        with contextlib.closing(self.connect(self.url(database))) as connection:
            cursor = connection.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def connect(self, url):
        return psycopg.connect(url, autocommit=True)

    def _make(self, template, name=None):
        name = name or f"test_{next(_numbers)}"
        query = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self.execute(query.format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)

    def _run(self, program, *args):
        done = subprocess.run(
            [BIN / program, *args],
            user=self._user,
            extra_groups=[] if self._user else None,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def execute_raw(where, statement):
    """Run one statement on a store of either kind behind the program's back; return its rows."""
    if isinstance(where, Path):
        with contextlib.closing(sqlite3.connect(where, isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()
    with contextlib.closing(psycopg.connect(where, autocommit=True)) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def away(where):
    """Have whatever opens a database fail, which nobody has open now; give the code that tells it."""
    if isinstance(where, Path):
        kept = where.with_suffix(".away")
        where.rename(kept)
        where.mkdir()
        try:
            yield "store_failed"
        finally:
            where.rmdir()
            kept.rename(where)
        return
    name = conninfo_to_dict(where)["dbname"]
    elsewhere = make_conninfo(where, dbname="postgres")
    execute_raw(elsewhere, f"ALTER DATABASE {name} RENAME TO {name}_away")
    try:
        yield "store_unreachable"
    finally:
        execute_raw(elsewhere, f"ALTER DATABASE {name}_away RENAME TO {name}")
