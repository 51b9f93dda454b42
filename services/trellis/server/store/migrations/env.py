"""What alembic runs: the migrations on the connection, and inside the transaction, that `migrate` hands over."""

from alembic import context

from trellis.server.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    render_as_batch=True,  # SQLite changes a table by making it anew
)
context.run_migrations()
