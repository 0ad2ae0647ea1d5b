"""Version 3: the tables as they were before alembic, of which older stores lack some.

Versions 1 to 3 only added tables, and the last ones without counting on.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import TEXT
from sqlalchemy.types import TypeEngine

revision = "3"
down_revision = None

TABLES = MetaData()


def upgrade() -> None:
    """Make the tables that are not there."""
    TABLES.create_all(op.get_bind())


def _text(max_chars: int | None = None) -> TypeEngine[str]:
    kind: TypeEngine[str] = String(max_chars) if max_chars is not None else Text()
    return kind.with_variant(TEXT(collation="C"), "postgresql")


_INTEGER = Integer().with_variant(BigInteger(), "postgresql")


def _device_key() -> Column[str]:
    return Column(
        "device", _text(64), ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True
    )


Table(
    "meta",
    TABLES,
    Column("key", _text(64), primary_key=True),
    Column("value", _text(), nullable=False),
)

Table(
    "devices",
    TABLES,
    Column("id", _text(64), primary_key=True),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("last_seen_unix_ms", BigInteger),
)

Table(
    "tags",
    TABLES,
    _device_key(),
    Column("key", _text(32), primary_key=True),
    Column("value", _text(64), nullable=False),
    Index("tags_by_value", "key", "value"),
)

Table(
    "presence",
    TABLES,
    _device_key(),
    Column("state", _text(8), nullable=False),
    Column("boot", _text(16), nullable=False),
    Column("birth", BigInteger, nullable=False),
    Column("former_boot", _text(16), nullable=False),
    Column("agent", _text(64), nullable=False),
    Column("since_unix_ms", BigInteger, nullable=False),
)

Table(
    "reported",
    TABLES,
    _device_key(),
    Column("boot", _text(16), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("quarantined", _text(), nullable=False),
    Column("inventory", _text(), nullable=False),
    Column("received_unix_ms", BigInteger, nullable=False),
)

Table(
    "reported_models",
    TABLES,
    _device_key(),
    Column("model", _text(64), primary_key=True),
    Column("state", _text(16), nullable=False),
    Column("active_version", _text(64)),
    Column("active_manifest", _text(64), index=True),
    Column("fallback_version", _text(64)),
    Column("target_manifest", _text(64)),
    Column("outcome", _text(32)),
    Column("code", _text(64)),
    Column("detail", _text(), nullable=False),
    Column("served", BigInteger, nullable=False),
)

Table(
    "desired",
    TABLES,
    _device_key(),
    Column("generation", BigInteger, nullable=False),
)

Table(
    "lifted",
    TABLES,
    _device_key(),
    Column("manifest", _text(64), primary_key=True),
    Column("generation", BigInteger, nullable=False),
)

Table(
    "desired_models",
    TABLES,
    _device_key(),
    Column("model", _text(64), primary_key=True),
    Column("version", _text(64), nullable=False),
    Column("manifest", _text(64), nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("body", _text(), nullable=False),
)

Table(
    "confirmed",
    TABLES,
    Column("id", _INTEGER, primary_key=True, autoincrement=True),
    Column("device", _text(64), ForeignKey("devices.id", ondelete="CASCADE"), nullable=False),
    Column("model", _text(64), nullable=False),
    Column("version", _text(64), nullable=False),
    Column("manifest", _text(64), nullable=False),
    Column("body", _text(), nullable=False),
    Column("confirmed_unix_ms", BigInteger, nullable=False),
    Column("is_void", Boolean, nullable=False),
    Index("confirmed_by_device", "device", "model"),
)

Table(
    "releases",
    TABLES,
    Column("model", _text(64), primary_key=True),
    Column("version", _text(64), primary_key=True),
    Column("manifest", _text(64), nullable=False, unique=True),
    Column("index_digest", _text(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("chunk_count", _INTEGER, nullable=False),
    Column("manifest_body", _text(), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
)

Table(
    "chunks",
    TABLES,
    Column("digest", _text(64), primary_key=True),
    Column("plain_bytes", _INTEGER, nullable=False),
    Column("payload_bytes", _INTEGER, nullable=False),
    Column("is_published", Boolean, nullable=False, index=True),
)

Table(
    "release_chunks",
    TABLES,
    Column("manifest", _text(64), primary_key=True),
    Column("chunk", _text(64), ForeignKey("chunks.digest"), primary_key=True),
    Index("release_chunks_by_chunk", "chunk"),
)

Table(
    "records",
    TABLES,
    _device_key(),
    Column("boot", _text(16), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("channel", _text(32), nullable=False),
    Column("received_unix_ms", BigInteger, nullable=False),
    Column("body", _text(), nullable=False),
    Index("records_by_channel", "device", "channel", "received_unix_ms"),
    Index("records_by_time", "received_unix_ms"),
)

Table(
    "rollouts",
    TABLES,
    Column("number", _INTEGER, primary_key=True, autoincrement=True),
    Column("id", _text(64), nullable=False, unique=True),
    Column("model", _text(64), nullable=False, index=True),
    Column("version", _text(64), nullable=False),
    Column("manifest", _text(64), nullable=False),
    Column("match", _text(), nullable=False),
    Column("body", _text(), nullable=False),
    Column("soak_s", Float, nullable=False),
    Column("tolerance", _INTEGER, nullable=False),
    Column("state", _text(16), nullable=False, index=True),
    Column("reason", _text(), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("ended_unix_ms", BigInteger),
)

Table(
    "rollout_phases",
    TABLES,
    Column("rollout", _text(64), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    Column("position", _INTEGER, primary_key=True),
    Column("share", _text(16), nullable=False),
    Column("size", _INTEGER, nullable=False),
    Column("state", _text(16), nullable=False),
    Column("opened_unix_ms", BigInteger),
    Column("closed_unix_ms", BigInteger),
)

Table(
    "rollout_members",
    TABLES,
    Column("rollout", _text(64), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    Column("device", _text(64), primary_key=True),
    Column("position", _INTEGER, nullable=False),
    Column("phase", _INTEGER, nullable=False),
    Column("state", _text(16), nullable=False),
    Column("generation", BigInteger),
    Column("previous_version", _text(64)),
    Column("previous_manifest", _text(64)),
    Column("confirmed_unix_ms", BigInteger),
    Column("code", _text(64)),
    Column("detail", _text(), nullable=False),
    Index("rollout_members_by_device", "device"),
)

Table(
    "rollout_approvals",
    TABLES,
    Column("rollout", _text(64), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    Column("asked_by", _text(64), nullable=False),
    Column("limit_ratio", Float, nullable=False),
    Column("approved_by", _text(64)),
    Column("approved_unix_ms", BigInteger),
)

Table(
    "publications",
    TABLES,
    Column("id", _INTEGER, primary_key=True, autoincrement=True),
    Column("topic", _text(128), nullable=False, unique=True),
    Column("payload", _text(), nullable=False),
    sqlite_autoincrement=True,
)

Table(
    "events",
    TABLES,
    Column("id", _INTEGER, primary_key=True, autoincrement=True),
    Column("at_unix_ms", BigInteger, nullable=False),
    Column("kind", _text(16), nullable=False),
    Column("subject", _text(128), nullable=False),
    Column("text", _text(), nullable=False),
    Column("detail", _text(), nullable=False),
    sqlite_autoincrement=True,
)

Table(
    "certificates",
    TABLES,
    Column("serial", _text(40), primary_key=True),
    Column("device", _text(64), nullable=False, index=True),
    Column("key_digest", _text(64), nullable=False),
    Column("pem", _text(), nullable=False),
    Column("issued_unix_ms", BigInteger, nullable=False),
    Column("not_after_unix_ms", BigInteger, nullable=False),
    Column("revoked_unix_ms", BigInteger),
)

Table(
    "join_tokens",
    TABLES,
    Column("digest", _text(64), primary_key=True),
    Column("device", _text(64), ForeignKey("devices.id", ondelete="CASCADE"), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("expires_unix_ms", BigInteger, nullable=False),
    Column("serial", _text(40)),
    Index("join_tokens_by_device", "device"),
)

Table(
    "tokens",
    TABLES,
    Column("name", _text(64), primary_key=True),
    Column("digest", _text(64), nullable=False, unique=True),
    Column("role", _text(16), nullable=False),
    Column("scope", _text(), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("created_by", _text(64), nullable=False),
    Column("expires_unix_ms", BigInteger),
    Column("last_used_unix_ms", BigInteger),
    Column("revoked_unix_ms", BigInteger),
)

Table(
    "trust",
    TABLES,
    Column("role", _text(80), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("body", _text(), nullable=False),
)

Table(
    "audit",
    TABLES,
    Column("seq", _INTEGER, primary_key=True, autoincrement=False),
    Column("at_unix_ms", BigInteger, nullable=False),
    Column("who", _text(64), nullable=False),
    Column("what", _text(128), nullable=False),
    Column("subject", _text(), nullable=False),
    Column("outcome", _text(8), nullable=False),
    Column("code", _text(64), nullable=False),
    Column("previous", _text(64), nullable=False),
    Column("digest", _text(64), nullable=False),
)
