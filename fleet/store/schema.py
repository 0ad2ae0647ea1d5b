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
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import TEXT
from sqlalchemy.types import TypeDecorator, TypeEngine

SCHEMA_VERSION: Final = 5
"""Raised by one for each change of these tables, and the name of alembic's newest revision; a store
of a newer one is refused."""

METADATA: Final = MetaData()

REVISION: Final = Table(
    "alembic_version", MetaData(), Column("version_num", String(32), primary_key=True)
)
"""Alembic's own table, for reading it without alembic; not one of ours."""


class _ServerText(TypeDecorator[str]):
    """PostgreSQL's text, which sorts by code points and holds no NUL: it becomes U+FFFD.

    People ask for things by names with anything in them; the answer is that there is no such thing,
    on either database.
    """

    impl = TEXT(collation="C")
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value.replace("\0", "\ufffd") if value is not None and "\0" in value else value


def _text(max_chars: int | None = None) -> TypeEngine[str]:
    """Return the type of a text, which sorts by code points everywhere.

    SQLite does that and keeps to no length. PostgreSQL would sort by the language of the database,
    and refuse what is too long; lengths are the concern of what parses, so that a store never fails
    at what is already inside.
    """
    kind: TypeEngine[str] = String(max_chars) if max_chars is not None else Text()
    return kind.with_variant(_ServerText(), "postgresql")


_INTEGER: Final = Integer().with_variant(BigInteger(), "postgresql")
"""Of 64 bits on both, and on SQLite one that numbers rows by itself."""


def _device_key() -> Column[str]:
    return Column(
        "device", _text(64), ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True
    )


META = Table(
    "meta",
    METADATA,
    Column("key", _text(64), primary_key=True),
    Column("value", _text(), nullable=False),
)

DEVICES = Table(
    "devices",
    METADATA,
    Column("id", _text(64), primary_key=True),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("last_seen_unix_ms", BigInteger),
)

TAGS = Table(
    "tags",
    METADATA,
    _device_key(),
    Column("key", _text(32), primary_key=True),
    Column("value", _text(64), nullable=False),
    Index("tags_by_value", "key", "value"),
)

PRESENCE = Table(
    "presence",
    METADATA,
    _device_key(),
    Column("state", _text(8), nullable=False),
    Column("boot", _text(16), nullable=False),
    Column("birth", BigInteger, nullable=False),
    Column("former_boot", _text(16), nullable=False),
    Column("agent", _text(64), nullable=False),
    Column("since_unix_ms", BigInteger, nullable=False),
)

REPORTED = Table(
    "reported",
    METADATA,
    _device_key(),
    Column("boot", _text(16), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("quarantined", _text(), nullable=False),
    Column("inventory", _text(), nullable=False),
    Column("received_unix_ms", BigInteger, nullable=False),
)

REPORTED_MODELS = Table(
    "reported_models",
    METADATA,
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
    Column("manifest", _text(64), primary_key=True),  # empty is every one
    Column("generation", BigInteger, nullable=False),
)

DESIRED_MODELS = Table(
    "desired_models",
    METADATA,
    _device_key(),
    Column("model", _text(64), primary_key=True),
    Column("version", _text(64), nullable=False),
    Column("manifest", _text(64), nullable=False),
    Column("generation", BigInteger, nullable=False),  # the one that assigned this release
    Column("body", _text(), nullable=False),  # wire.messages.DesiredModel
)

CONFIRMED = Table(
    "confirmed",
    METADATA,
    Column("id", _INTEGER, primary_key=True, autoincrement=True),
    Column("device", _text(64), ForeignKey("devices.id", ondelete="CASCADE"), nullable=False),
    Column("model", _text(64), nullable=False),
    Column("version", _text(64), nullable=False),
    Column("manifest", _text(64), nullable=False),
    Column("body", _text(), nullable=False),  # the DesiredModel that it was confirmed under
    Column("confirmed_unix_ms", BigInteger, nullable=False),
    Column("is_void", Boolean, nullable=False),  # rolled back by hand since
    Index("confirmed_by_device", "device", "model"),
)

RELEASES = Table(
    "releases",
    METADATA,
    Column("model", _text(64), primary_key=True),
    Column("version", _text(64), primary_key=True),
    Column("manifest", _text(64), nullable=False, unique=True),
    Column("index_digest", _text(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("chunk_count", _INTEGER, nullable=False),
    Column("manifest_body", _text(), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
)

CHUNKS = Table(
    "chunks",
    METADATA,
    Column("digest", _text(64), primary_key=True),
    Column("plain_bytes", _INTEGER, nullable=False),
    Column("payload_bytes", _INTEGER, nullable=False),
    Column("is_published", Boolean, nullable=False, index=True),
)

RELEASE_CHUNKS = Table(
    "release_chunks",
    METADATA,
    Column("manifest", _text(64), primary_key=True),
    Column("chunk", _text(64), ForeignKey("chunks.digest"), primary_key=True),
    Index("release_chunks_by_chunk", "chunk"),
)

RECORDS = Table(
    "records",
    METADATA,
    _device_key(),
    Column("boot", _text(16), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("channel", _text(32), nullable=False),
    Column("received_unix_ms", BigInteger, nullable=False),
    Column("body", _text(), nullable=False),
    Index("records_by_channel", "device", "channel", "received_unix_ms"),
    Index("records_by_time", "received_unix_ms"),
)

WINDOWS = Table(
    "windows",
    METADATA,
    _device_key(),
    # No foreign key: a window may come before the release that it is about is pushed again.
    Column("manifest", _text(64), primary_key=True),
    Column("length_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("start_unix_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("row_count", BigInteger, nullable=False),
    Column("body", _text(), nullable=False),  # fleet.core.windows.WindowSums
    Index("windows_by_release", "manifest", "start_unix_ms"),
    Index("windows_by_time", "start_unix_ms"),
)

FINDINGS = Table(
    "findings",
    METADATA,
    # Each cause that drift was traced to; open until `closed_unix_ms`.
    Column("id", _INTEGER, primary_key=True, autoincrement=True),
    Column("model", _text(64), nullable=False, index=True),
    Column("manifest", _text(64), nullable=False),
    Column("level", _text(8), nullable=False),  # fleet, group or device
    Column("who", _text(128), nullable=False),  # empty, KEY=VALUE or a device's id
    Column("features", _text(), nullable=False),
    Column("since_unix_ms", BigInteger, nullable=False),
    Column("drifted_count", _INTEGER, nullable=False),
    Column("device_count", _INTEGER, nullable=False),
    Column("opened_unix_ms", BigInteger, nullable=False),
    Column("closed_unix_ms", BigInteger, index=True),
    sqlite_autoincrement=True,
)

DRIFT_ALARMS = Table(
    "drift_alarms",
    METADATA,
    # What each release's streams were found in when they were last judged.
    Column("manifest", _text(64), primary_key=True),
    Column("judged_unix_ms", BigInteger, nullable=False),
    Column("body", _text(), nullable=False),  # fleet.core.drift.Alarm by stream and column
)

ROLLOUTS = Table(
    "rollouts",
    METADATA,
    Column("number", _INTEGER, primary_key=True, autoincrement=True),
    Column("id", _text(64), nullable=False, unique=True),
    Column("model", _text(64), nullable=False, index=True),
    Column("version", _text(64), nullable=False),
    Column("manifest", _text(64), nullable=False),
    Column("match", _text(), nullable=False),
    Column("body", _text(), nullable=False),  # the DesiredModel that members get
    Column("soak_s", Float, nullable=False),
    Column("tolerance", _INTEGER, nullable=False),
    Column("state", _text(16), nullable=False, index=True),
    Column("reason", _text(), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("ended_unix_ms", BigInteger),
)

PHASES = Table(
    "rollout_phases",
    METADATA,
    Column("rollout", _text(64), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    Column("position", _INTEGER, primary_key=True),
    Column("share", _text(16), nullable=False),
    Column("size", _INTEGER, nullable=False),
    Column("state", _text(16), nullable=False),
    Column("opened_unix_ms", BigInteger),
    Column("closed_unix_ms", BigInteger),
)

MEMBERS = Table(
    "rollout_members",
    METADATA,
    Column("rollout", _text(64), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    # No foreign key: a removed device stays in the history of its rollouts.
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

APPROVALS = Table(
    "rollout_approvals",
    METADATA,
    # Those of rollouts that need a second person; the others have no row.
    Column("rollout", _text(64), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    Column("asked_by", _text(64), nullable=False),
    Column("limit_ratio", Float, nullable=False),
    Column("approved_by", _text(64)),
    Column("approved_unix_ms", BigInteger),
)

PUBLICATIONS = Table(
    "publications",
    METADATA,
    # The outbox: written in the transaction of the decision, deleted when the broker has it. A
    # newer one for the same topic replaces an older one, since both are retained state.
    Column("id", _INTEGER, primary_key=True, autoincrement=True),
    Column("topic", _text(128), nullable=False, unique=True),
    Column("payload", _text(), nullable=False),
    sqlite_autoincrement=True,  # an id names one publication for ever: never reused
)

EVENTS = Table(
    "events",
    METADATA,
    Column("id", _INTEGER, primary_key=True, autoincrement=True),
    Column("at_unix_ms", BigInteger, nullable=False),
    Column("kind", _text(16), nullable=False),
    Column("subject", _text(128), nullable=False),
    Column("text", _text(), nullable=False),
    Column("detail", _text(), nullable=False),
    sqlite_autoincrement=True,  # a watcher resumes after an id
)

CERTIFICATES = Table(
    "certificates",
    METADATA,
    Column("serial", _text(40), primary_key=True),
    # No foreign key: what was revoked stays so when the device is removed.
    Column("device", _text(64), nullable=False, index=True),
    Column("key_digest", _text(64), nullable=False),
    Column("pem", _text(), nullable=False),
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
    Column("digest", _text(64), primary_key=True),  # sha-256 of the secret
    Column("device", _text(64), ForeignKey("devices.id", ondelete="CASCADE"), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("expires_unix_ms", BigInteger, nullable=False),
    Column("serial", _text(40)),  # the certificate that it was exchanged for
    Index("join_tokens_by_device", "device"),
)

TOKENS = Table(
    "tokens",
    METADATA,
    # A name is never given twice, so that a line of the audit log names one token for ever.
    Column("name", _text(64), primary_key=True),
    Column("digest", _text(64), nullable=False, unique=True),  # sha-256 of the token
    Column("role", _text(16), nullable=False),
    Column("scope", _text(), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("created_by", _text(64), nullable=False),
    Column("expires_unix_ms", BigInteger),
    Column("last_used_unix_ms", BigInteger),
    Column("revoked_unix_ms", BigInteger),
)

TRUST = Table(
    "trust",
    METADATA,
    Column("role", _text(80), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("body", _text(), nullable=False),  # exactly as it was signed
)

AUDIT = Table(
    "audit",
    METADATA,
    # The order of the columns is that of fleet.core.audit.Entry. Rows are only ever added.
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
