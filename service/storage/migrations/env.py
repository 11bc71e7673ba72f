"""Script that Alembic runs. It migrates on the connection that `service.storage.database` passes."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    render_as_batch=True,  # SQLite changes a column by copying its table
)
context.run_migrations()
