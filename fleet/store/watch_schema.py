"""The tables of what is watched: windows, findings, alerts. See `schema`, whose rules hold here too."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Table, text

from .columns import INTEGER, METADATA, device_key, text_type

WINDOWS = Table(
    "windows",
    METADATA,
    device_key(),
    # No foreign key: a window may come before the release that it is about is pushed again.
    Column("manifest", text_type(64), primary_key=True),
    Column("length_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("start_unix_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("row_count", BigInteger, nullable=False),
    Column("body", text_type(), nullable=False),  # fleet.core.windows.WindowSums
    Index("windows_by_release", "manifest", "start_unix_ms"),
    # No index of the start alone: PostgreSQL would walk it through all that is old already.
    Index("windows_by_length", "length_ms", "start_unix_ms"),
)

PERFORMANCE = Table(
    "performance",
    METADATA,
    device_key(),
    Column("manifest", text_type(64), primary_key=True),
    Column("length_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("start_unix_ms", BigInteger, primary_key=True, autoincrement=False),
    # Of classes; beside the body so that the alerts' look need not read that.
    Column("row_count", BigInteger, nullable=False),
    Column("correct_count", BigInteger, nullable=False),
    Column("body", text_type(), nullable=False),  # fleet.core.performance.PerformanceSums
    Index("performance_by_release", "manifest", "start_unix_ms"),
    # No index of the start alone: PostgreSQL would walk it through all that is old already.
    Index("performance_by_length", "length_ms", "start_unix_ms"),
)

FINDINGS = Table(
    "findings",
    METADATA,
    # Each cause that drift was traced to; open until `closed_unix_ms`.
    Column("id", INTEGER, primary_key=True, autoincrement=True),
    Column("model", text_type(64), nullable=False, index=True),
    Column("manifest", text_type(64), nullable=False),
    Column("level", text_type(8), nullable=False),  # fleet, group or device
    Column("who", text_type(128), nullable=False),  # empty, KEY=VALUE or a device's id
    Column("features", text_type(), nullable=False),
    Column("since_unix_ms", BigInteger, nullable=False),
    Column("drifted_count", INTEGER, nullable=False),
    Column("device_count", INTEGER, nullable=False),
    Column("opened_unix_ms", BigInteger, nullable=False),
    Column("closed_unix_ms", BigInteger, index=True),
    sqlite_autoincrement=True,
)

DRIFT_ALARMS = Table(
    "drift_alarms",
    METADATA,
    # What each release's streams were found in when they were last judged.
    Column("manifest", text_type(64), primary_key=True),
    Column("judged_unix_ms", BigInteger, nullable=False),
    Column("body", text_type(), nullable=False),  # fleet.core.drift.Alarm by stream and column
)

ALERTS = Table(
    "alerts",
    METADATA,
    # See fleet.core.alerts.Alert. No foreign key: a removed device stays in the history.
    Column("id", INTEGER, primary_key=True, autoincrement=True),
    Column("rule", text_type(32), nullable=False),
    Column("subject", text_type(192), nullable=False),
    Column("device", text_type(64), index=True),  # the one that it is about
    Column("text", text_type(), nullable=False),
    Column("state", text_type(8), nullable=False),
    Column("is_breached", Boolean, nullable=False),
    Column("since_unix_ms", BigInteger, nullable=False),
    Column("began_unix_ms", BigInteger, nullable=False),
    Column("fired_unix_ms", BigInteger),
    Column("resolved_unix_ms", BigInteger, index=True),
    Column("news", text_type(8), nullable=False),
    Column("news_unix_ms", BigInteger),
    Column("told_unix_ms", BigInteger),
    Column("acknowledged_by", text_type(64), nullable=False),
    Column("acknowledged_unix_ms", BigInteger),
    Column("due_unix_ms", BigInteger, index=True),  # when it is to be looked at again
    sqlite_autoincrement=True,  # an id names one alert for ever
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
    METADATA,
    Column("id", INTEGER, primary_key=True, autoincrement=True),
    Column("rule", text_type(32)),
    Column("subject", text_type(192)),
    Column("match", text_type(), nullable=False),
    Column("until_unix_ms", BigInteger, nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("created_by", text_type(64), nullable=False),
    Column("why", text_type(), nullable=False),
    sqlite_autoincrement=True,
)

DELIVERIES = Table(
    "deliveries",
    METADATA,
    # What each receiver has yet to get: written in the transaction that decides it, deleted when
    # the receiver has it.
    Column("id", INTEGER, primary_key=True, autoincrement=True),
    Column("receiver", text_type(300), nullable=False),
    Column("body", text_type(), nullable=False),
    Column("created_unix_ms", BigInteger, nullable=False),
    Column("attempts", INTEGER, nullable=False),
    Column("next_unix_ms", BigInteger, nullable=False),
    Index("deliveries_by_receiver", "receiver", "id"),
    sqlite_autoincrement=True,
)

REQUEST_COUNTS = Table(
    "request_counts",
    METADATA,
    # What the fleet answered of late, for the share of errors; a row for each minute.
    Column("manifest", text_type(64), primary_key=True),
    Column("minute", BigInteger, primary_key=True),  # of the Unix epoch
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
)
