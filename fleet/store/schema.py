"""The tables. Instants are milliseconds of the Unix epoch, JSON is text that our code wrote.

Chunk payloads are files beside the database, not rows: they are immutable, named by their digest
and up to gigabytes in all, so in a table they would be written twice (journal and file), swell
every backup, and have to be copied to be sent.

Whoever changes a table raises `SCHEMA_VERSION` and adds the revision of that number to
`fleet/store/migrations/versions`; a test holds the tables here against those that the revisions make.
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
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from . import (  # noqa: F401 - their tables are of the same metadata
    capture_schema,
    lineage_schema,
    shadow_schema,
    watch_schema,
)
from .columns import INTEGER, METADATA, device_key, text_type

__all__ = ["METADATA"]

SCHEMA_VERSION: Final = 12
"""Raised by one for each change of these tables, and the name of alembic's newest revision; a store
of a newer one is refused."""

REVISION: Final = Table(
    "alembic_version", MetaData(), Column("version_num", String(32), primary_key=True)
)
"""Alembic's own table, for reading it without alembic; not one of ours."""


META = Table(
    "meta",
    METADATA,
    Column("key", text_type(64), primary_key=True),
    Column("value", text_type(), nullable=False),
)

DEVICES = Table(
    "devices",
    METADATA,
    Column("id", text_type(64), primary_key=True),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("last_seen_unix_ms", BigInteger),
)

TAGS = Table(
    "tags",
    METADATA,
    device_key(),
    Column("key", text_type(32), primary_key=True),
    Column("value", text_type(64), nullable=False),
    Index("tags_by_value", "key", "value"),
)

PRESENCE = Table(
    "presence",
    METADATA,
    device_key(),
    Column("state", text_type(8), nullable=False),
    Column("boot", text_type(16), nullable=False),
    Column("birth", BigInteger, nullable=False),
    Column("former_boot", text_type(16), nullable=False),
    Column("agent", text_type(64), nullable=False),
    Column("since_unix_ms", BigInteger, nullable=False),
)

REPORTED = Table(
    "reported",
    METADATA,
    device_key(),
    Column("boot", text_type(16), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("quarantined", text_type(), nullable=False),
    Column("inventory", text_type(), nullable=False),
    Column("received_unix_ms", BigInteger, nullable=False),
    Column("shadow", text_type()),  # wire.messages.ReportedShadow
)

REPORTED_MODELS = Table(
    "reported_models",
    METADATA,
    device_key(),
    Column("model", text_type(64), primary_key=True),
    Column("state", text_type(16), nullable=False),
    Column("active_version", text_type(64)),
    Column("active_manifest", text_type(64), index=True),
    Column("fallback_version", text_type(64)),
    Column("target_manifest", text_type(64)),
    Column("outcome", text_type(32)),
    Column("code", text_type(64)),
    Column("detail", text_type(), nullable=False),
    Column("served", BigInteger, nullable=False),
)

DESIRED = Table(
    "desired",
    METADATA,
    device_key(),
    Column("generation", BigInteger, nullable=False),
)

LIFTED = Table(
    "lifted",
    METADATA,
    device_key(),
    Column("manifest", text_type(64), primary_key=True),  # empty is every one
    Column("generation", BigInteger, nullable=False),
)

DESIRED_MODELS = Table(
    "desired_models",
    METADATA,
    device_key(),
    Column("model", text_type(64), primary_key=True),
    Column("version", text_type(64), nullable=False),
    Column("manifest", text_type(64), nullable=False),
    Column("generation", BigInteger, nullable=False),  # the one that assigned this release
    Column("body", text_type(), nullable=False),  # wire.messages.DesiredModel
)

CONFIRMED = Table(
    "confirmed",
    METADATA,
    Column("id", INTEGER, primary_key=True, autoincrement=True),
    Column("device", text_type(64), ForeignKey("devices.id", ondelete="CASCADE"), nullable=False),
    Column("model", text_type(64), nullable=False),
    Column("version", text_type(64), nullable=False),
    Column("manifest", text_type(64), nullable=False),
    Column("body", text_type(), nullable=False),  # the DesiredModel that it was confirmed under
    Column("confirmed_unix_ms", BigInteger, nullable=False),
    Column("is_void", Boolean, nullable=False),  # rolled back by hand since
    Index("confirmed_by_device", "device", "model"),
)

RELEASES = Table(
    "releases",
    METADATA,
    Column("model", text_type(64), primary_key=True),
    Column("version", text_type(64), primary_key=True),
    Column("manifest", text_type(64), nullable=False, unique=True),
    Column("index_digest", text_type(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("chunk_count", INTEGER, nullable=False),
    Column("manifest_body", text_type(), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
)

CHUNKS = Table(
    "chunks",
    METADATA,
    Column("digest", text_type(64), primary_key=True),
    Column("plain_bytes", INTEGER, nullable=False),
    Column("payload_bytes", INTEGER, nullable=False),
    Column("is_published", Boolean, nullable=False, index=True),
)

RELEASE_CHUNKS = Table(
    "release_chunks",
    METADATA,
    Column("manifest", text_type(64), primary_key=True),
    Column("chunk", text_type(64), ForeignKey("chunks.digest"), primary_key=True),
    Index("release_chunks_by_chunk", "chunk"),
)

RECORDS = Table(
    "records",
    METADATA,
    device_key(),
    Column("boot", text_type(16), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("channel", text_type(32), nullable=False),
    Column("received_unix_ms", BigInteger, nullable=False),
    Column("body", text_type(), nullable=False),
    Index("records_by_channel", "device", "channel", "received_unix_ms"),
    Index("records_by_time", "received_unix_ms"),
)

RECORD_RANGES = Table(
    "record_ranges",
    METADATA,
    # The numbers of records that were dropped because they were old.
    device_key(),
    Column("boot", text_type(16), primary_key=True),
    Column("first_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("received_unix_ms", BigInteger, nullable=False),  # the newest of them
    Index("record_ranges_by_time", "received_unix_ms"),
)

ROLLOUTS = Table(
    "rollouts",
    METADATA,
    Column("number", INTEGER, primary_key=True, autoincrement=True),
    Column("id", text_type(64), nullable=False, unique=True),
    Column("model", text_type(64), nullable=False, index=True),
    Column("version", text_type(64), nullable=False),
    Column("manifest", text_type(64), nullable=False),
    Column("match", text_type(), nullable=False),
    Column("body", text_type(), nullable=False),  # the DesiredModel that members get
    Column("soak_s", Float, nullable=False),
    Column("tolerance", INTEGER, nullable=False),
    Column("state", text_type(16), nullable=False, index=True),
    Column("reason", text_type(), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("ended_unix_ms", BigInteger),
)

PHASES = Table(
    "rollout_phases",
    METADATA,
    Column(
        "rollout", text_type(64), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True
    ),
    Column("position", INTEGER, primary_key=True),
    Column("share", text_type(16), nullable=False),
    Column("size", INTEGER, nullable=False),
    Column("state", text_type(16), nullable=False),
    Column("opened_unix_ms", BigInteger),
    Column("closed_unix_ms", BigInteger),
)

MEMBERS = Table(
    "rollout_members",
    METADATA,
    Column(
        "rollout", text_type(64), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True
    ),
    # No foreign key: a removed device stays in the history of its rollouts.
    Column("device", text_type(64), primary_key=True),
    Column("position", INTEGER, nullable=False),
    Column("phase", INTEGER, nullable=False),
    Column("state", text_type(16), nullable=False),
    Column("generation", BigInteger),
    Column("previous_version", text_type(64)),
    Column("previous_manifest", text_type(64)),
    Column("confirmed_unix_ms", BigInteger),
    Column("code", text_type(64)),
    Column("detail", text_type(), nullable=False),
    Index("rollout_members_by_device", "device"),
)

APPROVALS = Table(
    "rollout_approvals",
    METADATA,
    # Those of rollouts that need a second person; the others have no row.
    Column(
        "rollout", text_type(64), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True
    ),
    Column("asked_by", text_type(64), nullable=False),
    Column("limit_ratio", Float, nullable=False),
    Column("approved_by", text_type(64)),
    Column("approved_unix_ms", BigInteger),
)

PUBLICATIONS = Table(
    "publications",
    METADATA,
    # The outbox: written in the transaction of the decision, deleted when the broker has it. A
    # newer one for the same topic replaces an older one, since both are retained state.
    Column("id", INTEGER, primary_key=True, autoincrement=True),
    Column("topic", text_type(128), nullable=False, unique=True),
    Column("payload", text_type(), nullable=False),
    sqlite_autoincrement=True,  # an id names one publication for ever: never reused
)

EVENTS = Table(
    "events",
    METADATA,
    Column("id", INTEGER, primary_key=True, autoincrement=True),
    Column("at_unix_ms", BigInteger, nullable=False),
    Column("kind", text_type(16), nullable=False),
    Column("subject", text_type(128), nullable=False),
    Column("text", text_type(), nullable=False),
    Column("detail", text_type(), nullable=False),
    sqlite_autoincrement=True,  # a watcher resumes after an id
)

CERTIFICATES = Table(
    "certificates",
    METADATA,
    Column("serial", text_type(40), primary_key=True),
    # No foreign key: what was revoked stays so when the device is removed.
    Column("device", text_type(64), nullable=False, index=True),
    Column("key_digest", text_type(64), nullable=False),
    Column("pem", text_type(), nullable=False),
    Column("issued_unix_ms", BigInteger, nullable=False),
    Column("not_after_unix_ms", BigInteger, nullable=False),
    Column("revoked_unix_ms", BigInteger),
    # In the order in which they were given, whatever the clock said.
    Column("number", BigInteger, nullable=False),
    UniqueConstraint("number", name="certificates_number_key"),
)

JOIN_TOKENS = Table(
    "join_tokens",
    METADATA,
    Column("digest", text_type(64), primary_key=True),  # sha-256 of the secret
    Column("device", text_type(64), ForeignKey("devices.id", ondelete="CASCADE"), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("expires_unix_ms", BigInteger, nullable=False),
    Column("serial", text_type(40)),  # the certificate that it was exchanged for
    Index("join_tokens_by_device", "device"),
)

TOKENS = Table(
    "tokens",
    METADATA,
    # A name is never given twice, so that a line of the audit log names one token for ever.
    Column("name", text_type(64), primary_key=True),
    Column("digest", text_type(64), nullable=False, unique=True),  # sha-256 of the token
    Column("role", text_type(16), nullable=False),
    Column("scope", text_type(), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("created_by", text_type(64), nullable=False),
    Column("expires_unix_ms", BigInteger),
    Column("last_used_unix_ms", BigInteger),
    Column("revoked_unix_ms", BigInteger),
)

TRUST = Table(
    "trust",
    METADATA,
    Column("role", text_type(80), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("body", text_type(), nullable=False),  # exactly as it was signed
)

AUDIT = Table(
    "audit",
    METADATA,
    # The order of the columns is that of fleet.core.audit.Entry. Rows are only ever added.
    Column("seq", INTEGER, primary_key=True, autoincrement=False),
    Column("at_unix_ms", BigInteger, nullable=False),
    Column("who", text_type(64), nullable=False),
    Column("what", text_type(128), nullable=False),
    Column("subject", text_type(), nullable=False),
    Column("outcome", text_type(8), nullable=False),
    Column("code", text_type(64), nullable=False),
    Column("previous", text_type(64), nullable=False),
    Column("digest", text_type(64), nullable=False),
)
