"""All rows of a database, to be compared with those of another one."""

from datetime import UTC, datetime

from sqlalchemy import Connection, MetaData, select
from sqlalchemy.ext.asyncio import AsyncEngine

Rows = dict[str, list[tuple[tuple[str, object], ...]]]
"""By table; each row's values by column."""


async def contents(engine: AsyncEngine) -> Rows:
    """Of every table but alembic's; times alike on all databases."""
    async with engine.connect() as connection:
        return await connection.run_sync(_read)


def tables_of(connection: Connection) -> MetaData:
    """The tables that the database has, whatever the code says."""
    found = MetaData()
    found.reflect(connection)
    return found


def _read(connection: Connection) -> Rows:
    found: Rows = {}
    for table in tables_of(connection).sorted_tables:
        if table.name != "alembic_version":
            rows = connection.execute(select(table)).mappings().all()
            plain = (tuple((str(k), _plain(v)) for k, v in sorted(row.items())) for row in rows)
            found[table.name] = sorted(plain, key=repr)
    return found


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    return value
