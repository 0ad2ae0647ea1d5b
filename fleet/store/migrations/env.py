"""What alembic runs for each of its commands: on the connection that it was given, in its transaction."""

from __future__ import annotations

from alembic import context

from fleet.store.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
)
context.run_migrations()
