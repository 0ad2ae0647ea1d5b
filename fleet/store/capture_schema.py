"""The tables of captured rows. See `schema`, whose rules hold here too.

Packs are rows and no files, unlike chunks: they are small, capped in number by `[capture]`, and hold what
people may ask to be deleted, so that row and content must go in one transaction.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, LargeBinary, Table

from .columns import INTEGER, METADATA, device_key, text_type

CAPTURE_REQUESTS = Table(
    "capture_requests",
    METADATA,
    Column("number", INTEGER, primary_key=True, autoincrement=True),
    Column("model", text_type(64), nullable=False),
    Column("row_limit", BigInteger, nullable=False),  # of each device
    Column("is_uncertain_first", Boolean, nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("created_by", text_type(64), nullable=False),
    Column("until_unix_ms", BigInteger, nullable=False),
    sqlite_autoincrement=True,  # a number names one request for ever
)

CAPTURE_DEVICES = Table(
    "capture_devices",
    METADATA,
    # What each device was asked for last; an earlier request to it ends with that.
    device_key(),
    Column(
        "request",
        INTEGER,
        ForeignKey("capture_requests.number", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("row_count", BigInteger, nullable=False),
    Column("is_open", Boolean, nullable=False),
)

CAPTURES = Table(
    "captures",
    METADATA,
    device_key(),
    Column("digest", text_type(64), primary_key=True),
    Column("request", BigInteger, nullable=False),
    Column("model", text_type(64), nullable=False),
    Column("row_count", INTEGER, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("first_unix_ms", BigInteger, nullable=False),  # when the rows were answered, it says
    Column("last_unix_ms", BigInteger, nullable=False),
    Column("received_unix_ms", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),  # wire.packs: a pack as it came
    Index("captures_by_model", "model", "received_unix_ms"),
    Index("captures_by_time", "received_unix_ms"),
)
