"""Version 4: certificates have numbers, since only SQLite knows in which order rows came."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column

revision = "4"
down_revision = "3"


def upgrade() -> None:
    """Number the certificates that are there in their order."""
    op.add_column("certificates", Column("number", BigInteger))
    if op.get_bind().dialect.name == "sqlite":
        op.execute("UPDATE certificates SET number = rowid")
    else:
        op.execute(
            "UPDATE certificates SET number = o.number FROM (SELECT serial, row_number() OVER"
            " (ORDER BY issued_unix_ms, serial) AS number FROM certificates) o"
            " WHERE o.serial = certificates.serial"
        )
    with op.batch_alter_table("certificates") as table:
        table.alter_column("number", existing_type=BigInteger(), nullable=False)
        table.create_unique_constraint("certificates_number_key", ["number"])
