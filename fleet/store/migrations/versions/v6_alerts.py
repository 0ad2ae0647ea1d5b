"""Version 6: alerts, silences, deliveries, and what the share of errors is counted by."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import TEXT
from sqlalchemy.types import TypeEngine

revision = "6"
down_revision = "5"

TABLES = MetaData()


def upgrade() -> None:
    """Make the tables."""
    TABLES.create_all(op.get_bind(), checkfirst=False)


def _text(max_chars: int | None = None) -> TypeEngine[str]:
    kind: TypeEngine[str] = String(max_chars) if max_chars is not None else Text()
    return kind.with_variant(TEXT(collation="C"), "postgresql")


_INTEGER = Integer().with_variant(BigInteger(), "postgresql")

ALERTS = Table(
    "alerts",
    TABLES,
    Column("id", _INTEGER, primary_key=True, autoincrement=True),
    Column("rule", _text(32), nullable=False),
    Column("subject", _text(192), nullable=False),
    Column("device", _text(64), index=True),
    Column("text", _text(), nullable=False),
    Column("state", _text(8), nullable=False),
    Column("is_breached", Boolean, nullable=False),
    Column("since_unix_ms", BigInteger, nullable=False),
    Column("began_unix_ms", BigInteger, nullable=False),
    Column("fired_unix_ms", BigInteger),
    Column("resolved_unix_ms", BigInteger, index=True),
    Column("news", _text(8), nullable=False),
    Column("news_unix_ms", BigInteger),
    Column("told_unix_ms", BigInteger),
    Column("acknowledged_by", _text(64), nullable=False),
    Column("acknowledged_unix_ms", BigInteger),
    Column("due_unix_ms", BigInteger, index=True),
    sqlite_autoincrement=True,
)
Index(
    "alerts_open",
    ALERTS.c.rule,
    ALERTS.c.subject,
    unique=True,
    sqlite_where=text("resolved_unix_ms IS NULL"),
    postgresql_where=text("resolved_unix_ms IS NULL"),
)
Index(
    "alerts_with_news",
    ALERTS.c.rule,
    ALERTS.c.news,
    ALERTS.c.news_unix_ms,
    sqlite_where=text("news <> ''"),
    postgresql_where=text("news <> ''"),
)

SILENCES = Table(
    "silences",
    TABLES,
    Column("id", _INTEGER, primary_key=True, autoincrement=True),
    Column("rule", _text(32)),
    Column("subject", _text(192)),
    Column("match", _text(), nullable=False),
    Column("until_unix_ms", BigInteger, nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("created_by", _text(64), nullable=False),
    Column("why", _text(), nullable=False),
    sqlite_autoincrement=True,
)

DELIVERIES = Table(
    "deliveries",
    TABLES,
    Column("id", _INTEGER, primary_key=True, autoincrement=True),
    Column("receiver", _text(300), nullable=False),
    Column("body", _text(), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("attempts", _INTEGER, nullable=False),
    Column("next_unix_ms", BigInteger, nullable=False),
    Index("deliveries_by_receiver", "receiver", "id"),
    sqlite_autoincrement=True,
)

REQUEST_COUNTS = Table(
    "request_counts",
    TABLES,
    Column("manifest", _text(64), primary_key=True),
    Column("minute", BigInteger, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
)
