"""Version 8: labelled answers."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Index, MetaData, String, Table, Text
from sqlalchemy.dialects.postgresql import TEXT
from sqlalchemy.types import TypeEngine

revision = "8"
down_revision = "7"

TABLES = MetaData()


def upgrade() -> None:
    """Make the table."""
    TABLES.tables["performance"].create(op.get_bind())


def _text(max_chars: int | None = None) -> TypeEngine[str]:
    kind: TypeEngine[str] = String(max_chars) if max_chars is not None else Text()
    return kind.with_variant(TEXT(collation="C"), "postgresql")


Table("devices", TABLES, Column("id", _text(64), primary_key=True))
Table(
    "performance",
    TABLES,
    Column("device", _text(64), ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("manifest", _text(64), primary_key=True),
    Column("length_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("start_unix_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("row_count", BigInteger, nullable=False),
    Column("correct_count", BigInteger, nullable=False),
    Column("body", _text(), nullable=False),
    Index("performance_by_release", "manifest", "start_unix_ms"),
    Index("performance_by_time", "start_unix_ms"),
)
