"""The store: one writer at a time, readers beside it, every failure a `StorageError`."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from fleet import acts
from wire.errors import StorageError

from . import revision
from .alerts import Alerts
from .aliases import Aliases
from .audit import Audit
from .captures import Captures
from .content import ChunkFolder
from .database import cause_of, open_database, translated
from .deliveries import Deliveries
from .devices import Devices
from .drift import Drift
from .identities import Identities
from .journal import Journal
from .live import Live
from .performance import Performance
from .releases import Releases
from .rollouts import Rollouts
from .runs import Runs
from .shadows import Shadows
from .states import States
from .tokens import Tokens
from .trust import Trust
from .windows import Windows


class Tx:
    """One transaction, or one consistent read: the tables by subject."""

    def __init__(self, connection: Connection) -> None:
        self.devices = Devices(connection)
        self.states = States(connection)
        self.releases = Releases(connection)
        self.rollouts = Rollouts(connection)
        self.shadows = Shadows(connection)
        self.journal = Journal(connection)
        self.identities = Identities(connection)
        self.tokens = Tokens(connection)
        self.trust = Trust(connection)
        self.audit = Audit(connection)
        self.windows = Windows(connection)
        self.performance = Performance(connection)
        self.drift = Drift(connection)
        self.alerts = Alerts(connection)
        self.deliveries = Deliveries(connection)
        self.aliases = Aliases(connection)
        self.live = Live(connection)
        self.runs = Runs(connection)
        self.captures = Captures(connection)


class Store:
    """The controller's database, SQLite or PostgreSQL, and its folder of chunks."""

    def __init__(self, where: Path | str, data_dir: Path, *, is_sole: bool = False) -> None:
        """Open the store, make it when it is not there, and bring one of an older program up to date.

        Args:
            where: The file of SQLite, or the URL of PostgreSQL.
            data_dir: For the chunks.
            is_sole: Whether this is the store's one controller.

        Raises:
            ConfigError: `postgres_missing` or `store_url`.
            StorageError: `store_unreadable`, `store_newer`, `store_taken`, or as `Database.fault`.
        """
        self.data_dir = data_dir
        self._lock = threading.RLock()
        database = open_database(where, is_sole=is_sole)
        try:
            if isinstance(where, Path):
                where.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(OSError):  # the database itself says what is wrong
                    # Tokens' hashes and captured rows are in it; SQLite's other files take its mode.
                    os.close(os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            self._database = database
            revision.bring_up_to_date(database)
            self.chunks = ChunkFolder(data_dir / "chunks")
        except SQLAlchemyError as exc:
            database.close()
            raise database.fault(exc) or StorageError(
                f"{database.name} cannot be used as the store: {cause_of(exc)}",
                code="store_unreadable",
                hint=database.unreadable_hint,
            ) from exc
        except OSError as exc:
            raise StorageError(
                f"{exc.filename or where}: {exc.strerror}",
                code="store_unreadable",
                hint="the store's folder must exist and be writable",
            ) from exc
        except StorageError:
            database.close()
            raise

    @property
    def name(self) -> str:
        """The database, as a person knows it."""
        return self._database.name

    @contextmanager
    def write(self) -> Iterator[Tx]:
        """Run one transaction; it is on disk when the block ends, or undone when it raises.

        Transactions run one after the other, whatever thread they come from. The first one of an
        act (`fleet.acts`) holds the act's row of the audit log. A database that is lost while it
        commits may have kept the transaction, or not: who repeats it must find what is there.

        Raises:
            StorageError: As `Database.fault`, else `store_failed`; nothing of the transaction remains.
            ValueError: A value that the database cannot hold.
        """
        act = acts.current()
        with self._lock, translated(self._database), self._database.writer.begin() as connection:
            tx = Tx(connection)
            yield tx
            if act is not None and not act.is_noted:
                tx.audit.append(act.row("done"))
        if act is not None:
            act.is_noted = True

    @contextmanager
    def read(self) -> Iterator[Tx]:
        """Give one consistent view; it never waits for a writer.

        Raises:
            StorageError: As `Database.fault`, else `store_failed`.
        """
        with translated(self._database), self._database.reader.begin() as connection:
            yield Tx(connection)

    def close(self) -> None:
        """Close all connections. Idempotent."""
        with self._lock:
            self._database.close()
