"""Version 7: aliases, what was live where and when, and how releases were made."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
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

revision = "7"
down_revision = "6"

TABLES = MetaData()


def upgrade() -> None:
    """Make the tables; what devices serve now is live since they last said so."""
    bind = op.get_bind()
    for table in TABLES.sorted_tables:
        if table.name != "devices":
            table.create(bind)
    op.execute(
        "INSERT INTO live_spans"
        " (device, model, version, manifest, earliest_unix_ms, since_unix_ms, ending, code)"
        " SELECT m.device, m.model, m.active_version, m.active_manifest,"
        " r.received_unix_ms, r.received_unix_ms, '', ''"
        " FROM reported_models m JOIN reported r ON r.device = m.device"
        " WHERE m.active_manifest IS NOT NULL AND m.active_version IS NOT NULL"
    )


def _text(max_chars: int | None = None) -> TypeEngine[str]:
    kind: TypeEngine[str] = String(max_chars) if max_chars is not None else Text()
    return kind.with_variant(TEXT(collation="C"), "postgresql")


_INTEGER = Integer().with_variant(BigInteger(), "postgresql")

Table("devices", TABLES, Column("id", _text(64), primary_key=True))
Table(
    "alias_moves",
    TABLES,
    Column("id", _INTEGER, primary_key=True, autoincrement=True),
    Column("model", _text(64), nullable=False),
    Column("alias", _text(64), nullable=False),
    Column("version", _text(64)),
    Column("manifest", _text(64)),
    Column("kind", _text(16), nullable=False),
    Column("back_to", BigInteger),
    Column("moved_unix_ms", BigInteger, nullable=False),
    Column("moved_by", _text(64), nullable=False),
    Column("why", _text(), nullable=False),
    Index("alias_moves_by_alias", "model", "alias", "id"),
    sqlite_autoincrement=True,
)

Table(
    "rollout_aliases",
    TABLES,
    Column("rollout", _text(64), primary_key=True),
    Column("alias", _text(64), nullable=False),
    Column("asked_by", _text(64), nullable=False),
)

LIVE_SPANS = Table(
    "live_spans",
    TABLES,
    Column("id", _INTEGER, primary_key=True, autoincrement=True),
    Column("device", _text(64), nullable=False),
    Column("model", _text(64), nullable=False),
    Column("version", _text(64), nullable=False),
    Column("manifest", _text(64), nullable=False),
    Column("earliest_unix_ms", BigInteger, nullable=False),
    Column("since_unix_ms", BigInteger, nullable=False),
    Column("last_known_unix_ms", BigInteger),
    Column("until_unix_ms", BigInteger),
    Column("ending", _text(16), nullable=False),
    Column("code", _text(64), nullable=False),
    Index("live_spans_by_model", "model", "id"),
    Index("live_spans_by_device", "device", "model", "id"),
    Index("live_spans_by_release", "manifest", "id"),
    sqlite_autoincrement=True,
)
Index(
    "live_spans_open",
    LIVE_SPANS.c.device,
    LIVE_SPANS.c.model,
    unique=True,
    sqlite_where=text("until_unix_ms IS NULL"),
    postgresql_where=text("until_unix_ms IS NULL"),
)

Table(
    "live_gaps",
    TABLES,
    Column("device", _text(64), ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("heard_unix_ms", BigInteger),
)

Table(
    "runs",
    TABLES,
    Column("manifest", _text(64), primary_key=True),
    Column("model", _text(64), nullable=False),
    Column("version", _text(64), nullable=False),
    Column("body", _text(), nullable=False),
    Column("stored_unix_ms", BigInteger, nullable=False),
    Column("stored_by", _text(64), nullable=False),
)
