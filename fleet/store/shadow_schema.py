"""The tables of shadows. See `schema`, whose rules hold here too."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Table

from .columns import INTEGER, METADATA, device_key, text_type

DESIRED_SHADOWS = Table(
    "desired_shadows",
    METADATA,
    device_key(),  # one at a time
    Column("model", text_type(64), nullable=False),
    Column("rollout", text_type(64), nullable=False),
    Column("body", text_type(), nullable=False),  # wire.messages.DesiredShadow
)

TRIALS = Table(
    "rollout_shadows",
    METADATA,
    # Those of rollouts that begin with a shadow; the others have no row.
    Column(
        "rollout", text_type(64), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True
    ),
    Column("duration_s", Float, nullable=False),
    Column("sample_ratio", Float, nullable=False),
    Column("min_agreement", Float, nullable=False),
    Column("min_rows", INTEGER, nullable=False),
    Column("rtol", Float, nullable=False),
    Column("atol", Float, nullable=False),
    Column("state", text_type(16), nullable=False),
    Column("opened_unix_ms", BigInteger),
    Column("closed_unix_ms", BigInteger),
    Column("devices", text_type(), nullable=False),  # [[device, generation], …]
)

SHADOW_SUMS = Table(
    "shadow_sums",
    METADATA,
    Column(
        "rollout", text_type(64), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True
    ),
    # No foreign key: what a removed device counted stays.
    Column("device", text_type(64), primary_key=True),
    Column("row_count", BigInteger, nullable=False),
    Column("agree_count", BigInteger, nullable=False),
    Column("body", text_type(), nullable=False),  # fleet.core.shadow.ShadowSums
)
