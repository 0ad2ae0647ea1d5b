"""The tables. Instants are milliseconds of the Unix epoch, JSON is text that our code wrote.

Chunk payloads are files beside the database, not rows: they are immutable, named by their digest
and up to gigabytes in all, so in a table they would be written twice (journal and file), swell
every backup, and have to be copied to be sent.
"""

from __future__ import annotations

from typing import Final

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

SCHEMA_VERSION: Final = 3
"""Raised by one for each change of these tables; a store of a newer one is refused."""

ADDED_SINCE: Final = frozenset({"1", "2"})
"""Older versions that only lack tables: those are added, and nothing else is to be done."""

METADATA: Final = MetaData()


def _device_key() -> Column[str]:
    return Column(
        "device", String(64), ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True
    )


META = Table(
    "meta",
    METADATA,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

DEVICES = Table(
    "devices",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("last_seen_unix_ms", BigInteger),
)

TAGS = Table(
    "tags",
    METADATA,
    _device_key(),
    Column("key", String(32), primary_key=True),
    Column("value", String(64), nullable=False),
    Index("tags_by_value", "key", "value"),
)

PRESENCE = Table(
    "presence",
    METADATA,
    _device_key(),
    Column("state", String(8), nullable=False),
    Column("boot", String(16), nullable=False),
    Column("birth", BigInteger, nullable=False),
    Column("former_boot", String(16), nullable=False),
    Column("agent", String(64), nullable=False),
    Column("since_unix_ms", BigInteger, nullable=False),
)

REPORTED = Table(
    "reported",
    METADATA,
    _device_key(),
    Column("boot", String(16), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("quarantined", Text, nullable=False),
    Column("inventory", Text, nullable=False),
    Column("received_unix_ms", BigInteger, nullable=False),
)

REPORTED_MODELS = Table(
    "reported_models",
    METADATA,
    _device_key(),
    Column("model", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("active_version", String(64)),
    Column("active_manifest", String(64), index=True),
    Column("fallback_version", String(64)),
    Column("target_manifest", String(64)),
    Column("outcome", String(32)),
    Column("code", String(64)),
    Column("detail", Text, nullable=False),
    Column("served", BigInteger, nullable=False),
)

DESIRED = Table(
    "desired",
    METADATA,
    _device_key(),
    Column("generation", BigInteger, nullable=False),
)

LIFTED = Table(
    "lifted",
    METADATA,
    _device_key(),
    Column("manifest", String(64), primary_key=True),  # empty is every one
    Column("generation", BigInteger, nullable=False),
)

DESIRED_MODELS = Table(
    "desired_models",
    METADATA,
    _device_key(),
    Column("model", String(64), primary_key=True),
    Column("version", String(64), nullable=False),
    Column("manifest", String(64), nullable=False),
    Column("generation", BigInteger, nullable=False),  # the one that assigned this release
    Column("body", Text, nullable=False),  # wire.messages.DesiredModel
)

CONFIRMED = Table(
    "confirmed",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("device", String(64), ForeignKey("devices.id", ondelete="CASCADE"), nullable=False),
    Column("model", String(64), nullable=False),
    Column("version", String(64), nullable=False),
    Column("manifest", String(64), nullable=False),
    Column("body", Text, nullable=False),  # the DesiredModel that it was confirmed under
    Column("confirmed_unix_ms", BigInteger, nullable=False),
    Column("is_void", Boolean, nullable=False),  # rolled back by hand since
    Index("confirmed_by_device", "device", "model"),
)

RELEASES = Table(
    "releases",
    METADATA,
    Column("model", String(64), primary_key=True),
    Column("version", String(64), primary_key=True),
    Column("manifest", String(64), nullable=False, unique=True),
    Column("index_digest", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("chunk_count", Integer, nullable=False),
    Column("manifest_body", Text, nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
)

CHUNKS = Table(
    "chunks",
    METADATA,
    Column("digest", String(64), primary_key=True),
    Column("plain_bytes", Integer, nullable=False),
    Column("payload_bytes", Integer, nullable=False),
    Column("is_published", Boolean, nullable=False, index=True),
)

RELEASE_CHUNKS = Table(
    "release_chunks",
    METADATA,
    Column("manifest", String(64), primary_key=True),
    Column("chunk", String(64), ForeignKey("chunks.digest"), primary_key=True),
    Index("release_chunks_by_chunk", "chunk"),
)

RECORDS = Table(
    "records",
    METADATA,
    _device_key(),
    Column("boot", String(16), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("channel", String(32), nullable=False),
    Column("received_unix_ms", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    Index("records_by_channel", "device", "channel", "received_unix_ms"),
    Index("records_by_time", "received_unix_ms"),
)

ROLLOUTS = Table(
    "rollouts",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("model", String(64), nullable=False, index=True),
    Column("version", String(64), nullable=False),
    Column("manifest", String(64), nullable=False),
    Column("match", Text, nullable=False),
    Column("body", Text, nullable=False),  # the DesiredModel that members get
    Column("soak_s", Float, nullable=False),
    Column("tolerance", Integer, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("ended_unix_ms", BigInteger),
)

PHASES = Table(
    "rollout_phases",
    METADATA,
    Column("rollout", String(64), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("share", String(16), nullable=False),
    Column("size", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("opened_unix_ms", BigInteger),
    Column("closed_unix_ms", BigInteger),
)

MEMBERS = Table(
    "rollout_members",
    METADATA,
    Column("rollout", String(64), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    # No foreign key: a removed device stays in the history of its rollouts.
    Column("device", String(64), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("phase", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("generation", BigInteger),
    Column("previous_version", String(64)),
    Column("previous_manifest", String(64)),
    Column("confirmed_unix_ms", BigInteger),
    Column("code", String(64)),
    Column("detail", Text, nullable=False),
    Index("rollout_members_by_device", "device"),
)

APPROVALS = Table(
    "rollout_approvals",
    METADATA,
    # Those of rollouts that need a second person; the others have no row.
    Column("rollout", String(64), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    Column("asked_by", String(64), nullable=False),
    Column("limit_ratio", Float, nullable=False),
    Column("approved_by", String(64)),
    Column("approved_unix_ms", BigInteger),
)

PUBLICATIONS = Table(
    "publications",
    METADATA,
    # The outbox: written in the transaction of the decision, deleted when the broker has it. A
    # newer one for the same topic replaces an older one, since both are retained state.
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("topic", String(128), nullable=False, unique=True),
    Column("payload", Text, nullable=False),
    sqlite_autoincrement=True,  # an id names one publication for ever: never reused
)

EVENTS = Table(
    "events",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at_unix_ms", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("subject", String(128), nullable=False),
    Column("text", Text, nullable=False),
    Column("detail", Text, nullable=False),
    sqlite_autoincrement=True,  # a watcher resumes after an id
)

CERTIFICATES = Table(
    "certificates",
    METADATA,
    Column("serial", String(40), primary_key=True),
    # No foreign key: what was revoked stays so when the device is removed.
    Column("device", String(64), nullable=False, index=True),
    Column("key_digest", String(64), nullable=False),
    Column("pem", Text, nullable=False),
    Column("issued_unix_ms", BigInteger, nullable=False),
    Column("not_after_unix_ms", BigInteger, nullable=False),
    Column("revoked_unix_ms", BigInteger),
)

JOIN_TOKENS = Table(
    "join_tokens",
    METADATA,
    Column("digest", String(64), primary_key=True),  # sha-256 of the secret
    Column("device", String(64), ForeignKey("devices.id", ondelete="CASCADE"), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("expires_unix_ms", BigInteger, nullable=False),
    Column("serial", String(40)),  # the certificate that it was exchanged for
    Index("join_tokens_by_device", "device"),
)

TOKENS = Table(
    "tokens",
    METADATA,
    # A name is never given twice, so that a line of the audit log names one token for ever.
    Column("name", String(64), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),  # sha-256 of the token
    Column("role", String(16), nullable=False),
    Column("scope", Text, nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("expires_unix_ms", BigInteger),
    Column("last_used_unix_ms", BigInteger),
    Column("revoked_unix_ms", BigInteger),
)

TRUST = Table(
    "trust",
    METADATA,
    Column("role", String(80), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("body", Text, nullable=False),  # exactly as it was signed
)

AUDIT = Table(
    "audit",
    METADATA,
    # The order of the columns is that of fleet.core.audit.Entry. Rows are only ever added.
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at_unix_ms", BigInteger, nullable=False),
    Column("who", String(64), nullable=False),
    Column("what", String(128), nullable=False),
    Column("subject", Text, nullable=False),
    Column("outcome", String(8), nullable=False),
    Column("code", String(64), nullable=False),
    Column("previous", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
)
