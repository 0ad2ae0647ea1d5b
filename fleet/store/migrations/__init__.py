"""What makes the tables of an older program today's, by alembic, one revision for each version.

To change a table: change it in `fleet/store/schema.py`, raise `SCHEMA_VERSION` there by one, and add
`versions/v<number>_<what>.py` with that number as `revision` and the one before as `down_revision`.
A revision says everything itself, since `schema.py` goes on changing; it runs on SQLite, where a
column is altered by `op.batch_alter_table`, and on PostgreSQL, in one transaction with the others.
There is no way down: an older program refuses a newer store.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

FOLDER: Final = Path(__file__).parent


def config(connection: Connection) -> Config:
    """Return alembic's settings for a connection; `env.py` takes it from there."""
    made = Config()
    made.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def upgrade(connection: Connection, to: str = "head") -> None:
    """Run the revisions that are missing, in the transaction of `connection`."""
    command.upgrade(config(connection), to)
