"""Version 5: windows of counts, and what was found in them."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects.postgresql import TEXT
from sqlalchemy.types import TypeEngine

revision = "5"
down_revision = "4"

TABLES = MetaData()


def upgrade() -> None:
    """Make the tables."""
    bind = op.get_bind()
    for table in TABLES.sorted_tables:
        if table.name != "devices":
            table.create(bind)


def _text(max_chars: int | None = None) -> TypeEngine[str]:
    kind: TypeEngine[str] = String(max_chars) if max_chars is not None else Text()
    return kind.with_variant(TEXT(collation="C"), "postgresql")


_INTEGER = Integer().with_variant(BigInteger(), "postgresql")

Table("devices", TABLES, Column("id", _text(64), primary_key=True))
Table(
    "windows",
    TABLES,
    Column("device", _text(64), ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("manifest", _text(64), primary_key=True),
    Column("length_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("start_unix_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("row_count", BigInteger, nullable=False),
    Column("body", _text(), nullable=False),
    Index("windows_by_release", "manifest", "start_unix_ms"),
    Index("windows_by_time", "start_unix_ms"),
)
Table(
    "findings",
    TABLES,
    Column("id", _INTEGER, primary_key=True, autoincrement=True),
    Column("model", _text(64), nullable=False, index=True),
    Column("manifest", _text(64), nullable=False),
    Column("level", _text(8), nullable=False),
    Column("who", _text(128), nullable=False),
    Column("features", _text(), nullable=False),
    Column("since_unix_ms", BigInteger, nullable=False),
    Column("drifted_count", _INTEGER, nullable=False),
    Column("device_count", _INTEGER, nullable=False),
    Column("opened_unix_ms", BigInteger, nullable=False),
    Column("closed_unix_ms", BigInteger, index=True),
    sqlite_autoincrement=True,
)
Table(
    "drift_alarms",
    TABLES,
    Column("manifest", _text(64), primary_key=True),
    Column("judged_unix_ms", BigInteger, nullable=False),
    Column("body", _text(), nullable=False),
)
