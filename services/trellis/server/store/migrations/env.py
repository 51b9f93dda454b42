"""What alembic runs: the migrations on the connection, and inside the transaction, that `migrate` hands over."""

from typing import Any, Literal

from alembic import context
from sqlalchemy.types import TypeDecorator

from trellis.server.store.tables import metadata


def _plain(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """A revision names a column's type in the database, for our own types may change later."""
    return f"sa.{item.impl!r}" if kind == "type" and isinstance(item, TypeDecorator) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    render_item=_plain,
    render_as_batch=True,  # SQLite changes a table by making it anew
)
context.run_migrations()
