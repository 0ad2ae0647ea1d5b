"""Version 9: requests for captured rows, and the rows."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import TEXT
from sqlalchemy.types import TypeEngine

revision = "9"
down_revision = "8"

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


def _device() -> Column[str]:
    return Column(
        "device", _text(64), ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True
    )


Table("devices", TABLES, Column("id", _text(64), primary_key=True))
Table(
    "capture_requests",
    TABLES,
    Column("number", _INTEGER, primary_key=True, autoincrement=True),
    Column("model", _text(64), nullable=False),
    Column("row_limit", BigInteger, nullable=False),
    Column("is_uncertain_first", Boolean, nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("created_by", _text(64), nullable=False),
    Column("until_unix_ms", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

Table(
    "capture_devices",
    TABLES,
    _device(),
    Column(
        "request",
        _INTEGER,
        ForeignKey("capture_requests.number", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("row_count", BigInteger, nullable=False),
    Column("is_open", Boolean, nullable=False),
)

Table(
    "captures",
    TABLES,
    _device(),
    Column("digest", _text(64), primary_key=True),
    Column("request", BigInteger, nullable=False),
    Column("model", _text(64), nullable=False),
    Column("row_count", _INTEGER, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("first_unix_ms", BigInteger, nullable=False),
    Column("last_unix_ms", BigInteger, nullable=False),
    Column("received_unix_ms", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("captures_by_model", "model", "received_unix_ms"),
    Index("captures_by_time", "received_unix_ms"),
)
