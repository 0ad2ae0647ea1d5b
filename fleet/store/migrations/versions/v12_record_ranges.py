"""Version 12: the numbers of records outlive the records, so that none is counted twice."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Index, MetaData, String, Table
from sqlalchemy.dialects.postgresql import TEXT
from sqlalchemy.types import TypeEngine

revision = "12"
down_revision = "11"

TABLES = MetaData()


def upgrade() -> None:
    """Make the table."""
    TABLES.tables["record_ranges"].create(op.get_bind())


def _text(max_chars: int) -> TypeEngine[str]:
    return String(max_chars).with_variant(TEXT(collation="C"), "postgresql")


Table("devices", TABLES, Column("id", _text(64), primary_key=True))
Table(
    "record_ranges",
    TABLES,
    Column("device", _text(64), ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("boot", _text(16), primary_key=True),
    Column("first_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("received_unix_ms", BigInteger, nullable=False),
    Index("record_ranges_by_time", "received_unix_ms"),
)
