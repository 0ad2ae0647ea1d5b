"""Version 11: slots of windows are found by their length, and then by time."""

from __future__ import annotations

from alembic import op

revision = "11"
down_revision = "10"


def upgrade() -> None:
    """Replace the indexes by time."""
    for table in ("windows", "performance"):
        op.drop_index(f"{table}_by_time", table)
        op.create_index(f"{table}_by_length", table, ["length_ms", "start_unix_ms"])
