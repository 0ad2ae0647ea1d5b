"""Version 10: shadows: which devices run one, the trials of rollouts, and what was compared."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Float, ForeignKey, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects.postgresql import TEXT
from sqlalchemy.types import TypeEngine

revision = "10"
down_revision = "9"

TABLES = MetaData()


def upgrade() -> None:
    """Make the tables, and room for what devices report of their shadow."""
    bind = op.get_bind()
    for table in TABLES.sorted_tables:
        if table.name not in ("devices", "rollouts"):
            table.create(bind)
    op.add_column("reported", Column("shadow", _text()))


def _text(max_chars: int | None = None) -> TypeEngine[str]:
    kind: TypeEngine[str] = String(max_chars) if max_chars is not None else Text()
    return kind.with_variant(TEXT(collation="C"), "postgresql")


_INTEGER = Integer().with_variant(BigInteger(), "postgresql")

Table("devices", TABLES, Column("id", _text(64), primary_key=True))
Table("rollouts", TABLES, Column("id", _text(64), primary_key=True))
Table(
    "desired_shadows",
    TABLES,
    Column("device", _text(64), ForeignKey("devices.id", ondelete="CASCADE"), primary_key=True),
    Column("model", _text(64), nullable=False),
    Column("rollout", _text(64), nullable=False),
    Column("body", _text(), nullable=False),
)
Table(
    "rollout_shadows",
    TABLES,
    Column("rollout", _text(64), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    Column("duration_s", Float, nullable=False),
    Column("sample_ratio", Float, nullable=False),
    Column("min_agreement", Float, nullable=False),
    Column("min_rows", _INTEGER, nullable=False),
    Column("rtol", Float, nullable=False),
    Column("atol", Float, nullable=False),
    Column("state", _text(16), nullable=False),
    Column("opened_unix_ms", BigInteger),
    Column("closed_unix_ms", BigInteger),
    Column("devices", _text(), nullable=False),
)
Table(
    "shadow_sums",
    TABLES,
    Column("rollout", _text(64), ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True),
    Column("device", _text(64), primary_key=True),
    Column("row_count", BigInteger, nullable=False),
    Column("agree_count", BigInteger, nullable=False),
    Column("body", _text(), nullable=False),
)
