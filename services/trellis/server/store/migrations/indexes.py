"""Indexes of tables that may be large, made while rows are written.

A revision that uses them says `in_transaction = False`, and does nothing else, or only what may be done twice.
"""

from collections.abc import Sequence

from alembic import op
from sqlalchemy import text


def make_index(name: str, table: str, columns: Sequence[str]) -> None:
    """Make an index unless it is there. On PostgreSQL nobody who writes waits for it, however long it takes.

    What a try that failed has left, an index that is kept up to date and never used, is dropped and made anew.
    """
    if not _is_postgresql():
        op.create_index(name, table, columns, if_not_exists=True)
        return
    is_valid = _is_valid(name)
    if is_valid:
        return
    if is_valid is False:
        drop_index(name, table)
    op.create_index(name, table, columns, postgresql_concurrently=True)


def drop_index(name: str, table: str) -> None:
    """Drop an index if it is there; who reads and writes does not wait on PostgreSQL."""
    op.drop_index(name, table, if_exists=True, postgresql_concurrently=_is_postgresql())


def _is_valid(name: str) -> bool | None:
    """None where there is no such index."""
    statement = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    found: bool | None = op.get_bind().scalar(statement, {"name": name})
    return found


def _is_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"
