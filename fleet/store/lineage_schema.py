"""The tables of what was live, of aliases, and of where releases come from. See `schema`, whose rules hold here too.

Rows of `alias_moves`, `live_spans` and `runs` are never deleted with what they are about: history
outlives devices. So they have no foreign keys.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Table, text

from .columns import INTEGER, METADATA, device_key, text_type

ALIAS_MOVES = Table(
    "alias_moves",
    METADATA,
    # Rows are only ever added; the newest one of an alias says what it means now.
    Column("id", INTEGER, primary_key=True, autoincrement=True),
    Column("model", text_type(64), nullable=False),
    Column("alias", text_type(64), nullable=False),
    Column("version", text_type(64)),  # null: it was deleted
    Column("manifest", text_type(64)),
    Column("kind", text_type(16), nullable=False),  # set, rollout, rollback or deleted
    Column("back_to", BigInteger),  # id of the move that one step back returns to
    Column("moved_unix_ms", BigInteger, nullable=False),
    Column("moved_by", text_type(64), nullable=False),
    Column("why", text_type(), nullable=False),
    Index("alias_moves_by_alias", "model", "alias", "id"),
    sqlite_autoincrement=True,
)

ROLLOUT_ALIASES = Table(
    "rollout_aliases",
    METADATA,
    # Those of rollouts that move an alias when they have finished; the others have no row.
    Column("rollout", text_type(64), primary_key=True),
    Column("alias", text_type(64), nullable=False),
    Column("asked_by", text_type(64), nullable=False),
)

LIVE_SPANS = Table(
    "live_spans",
    METADATA,
    # What each device said it serves, from when to when. See fleet.core.live.
    Column("id", INTEGER, primary_key=True, autoincrement=True),
    Column("device", text_type(64), nullable=False),
    Column("model", text_type(64), nullable=False),
    Column("version", text_type(64), nullable=False),
    Column("manifest", text_type(64), nullable=False),
    Column("earliest_unix_ms", BigInteger, nullable=False),
    Column("since_unix_ms", BigInteger, nullable=False),
    Column("last_known_unix_ms", BigInteger),
    Column("until_unix_ms", BigInteger),
    Column("ending", text_type(16), nullable=False),
    Column("code", text_type(64), nullable=False),
    Index("live_spans_by_model", "model", "id"),
    Index("live_spans_by_device", "device", "model", "id"),
    Index("live_spans_by_release", "manifest", "id"),
    Index(
        "live_spans_open",
        "device",
        "model",
        unique=True,
        sqlite_where=text("until_unix_ms IS NULL"),
        postgresql_where=text("until_unix_ms IS NULL"),
    ),
    sqlite_autoincrement=True,
)

LIVE_GAPS = Table(
    "live_gaps",
    METADATA,
    # Devices that may have changed what they serve without being heard, and when they last were.
    device_key(),
    Column("heard_unix_ms", BigInteger),
)

RUNS = Table(
    "runs",
    METADATA,
    # How a release was made, as its pipeline said; immutable, as the release is.
    Column("manifest", text_type(64), primary_key=True),
    Column("model", text_type(64), nullable=False),
    Column("version", text_type(64), nullable=False),
    Column("body", text_type(), nullable=False),  # fleet.api.run_schemas.RunRecord
    Column("stored_unix_ms", BigInteger, nullable=False),
    Column("stored_by", text_type(64), nullable=False),
)
