"""One transaction, and the few things that the two databases say differently."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Delete, Row, Select, Table, Update, func, insert, text, type_coerce
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from trellis.server.app.ports import Page
from trellis.server.store.columns import UtcTime
from trellis.server.store.pages import Keyset

T = TypeVar("T")
Values = Mapping[str, Any]


class Transaction:
    """A connection inside a transaction."""

    def __init__(self, connection: AsyncConnection, *, writes: bool = True) -> None:
        self._connection = connection
        self._writes = writes
        self._insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        self._committed = False
        self.touched: set[str] = set()
        """The tables, and the uids of jobs and trainers, that were written to; see app.bell."""

    async def commit(self) -> None:
        """Makes it all true; nothing may be written afterwards."""
        assert not self._committed, "a unit of work is committed once"
        await self._connection.commit()
        self._committed = True

    async def rows(self, statement: Select[Any]) -> Sequence[Row[Any]]:
        """All rows."""
        found: Sequence[Row[Any]] = (await self._connection.execute(statement)).all()
        return found

    async def row(self, statement: Select[Any]) -> Row[Any] | None:
        """The first row, if any."""
        found: Row[Any] | None = (await self._connection.execute(statement.limit(1))).first()
        return found

    async def page(
        self, keyset: Keyset, statement: Select[Any], limit: int, cursor: str | None, read: Callable[[Row[Any]], T]
    ) -> Page[T]:
        """A page of a list."""
        rows = await self.rows(keyset.select(statement, limit, cursor))
        return keyset.page(rows, limit, read)

    async def change(self, statement: Update | Delete) -> int:
        """How many rows were changed."""
        self._expect_open()
        changed = (await self._connection.execute(statement)).rowcount
        if changed:
            self.touched.add(_table_of(statement))
        return changed

    async def change_returning(self, statement: Any) -> Any:
        """The one value that an UPDATE … RETURNING gives, or None if no row was changed."""
        self._expect_open()
        self.touched.add(_table_of(statement))
        return (await self._connection.execute(statement)).scalar_one_or_none()

    async def add(self, table: Table, values: Values) -> bool:
        """Insert a row; False, and nothing changes, if one with its primary key or another unique value is there."""
        self._expect_open()
        statement = self._insert(table).values(values).on_conflict_do_nothing()
        done = await self._connection.execute(statement, execution_options={"preserve_rowcount": True})
        if done.rowcount == 1:
            self.touched.add(table.name)
        return done.rowcount == 1

    async def add_all(self, table: Table, rows: Sequence[Values]) -> None:
        """Insert those rows that are not there yet."""
        self._expect_open()
        if rows:
            self.touched.add(table.name)
            await self._connection.execute(self._insert(table).on_conflict_do_nothing(), list(rows))

    async def add_new(self, table: Table, rows: Sequence[Values], returning: Sequence[str]) -> Sequence[Row[Any]]:
        """Insert those rows that are not there yet, in this order, and return these columns of them."""
        self._expect_open()
        if not rows:
            return []
        statement = _adding_new(self._insert, table, tuple(returning))
        added: Sequence[Row[Any]] = (await self._connection.execute(statement, list(rows))).all()
        return added

    async def add_up(self, table: Table, rows: Sequence[Values]) -> Sequence[int]:
        """Insert rows of different keys, in this order, or add their quantity to that of the row which is there; the
        quantities that they have then.
        """
        self._expect_open()
        if not rows:
            return []
        sums = await self._connection.execute(_adding_up(self._insert, table), list(rows))
        return sums.scalars().all()

    async def append(self, table: Table, rows: Sequence[Values]) -> None:
        """Insert rows that can't be there yet."""
        self._expect_open()
        if rows:
            self.touched.add(table.name)
            await self._connection.execute(insert(table), list(rows))

    async def put(self, table: Table, values: Values) -> None:
        """Insert a row, or replace the one with its primary key."""
        self._expect_open()
        self.touched.add(table.name)
        keys: list[Column[Any]] = list(table.primary_key.columns)
        rest = {name: value for name, value in values.items() if not table.c[name].primary_key}
        statement = self._insert(table).values(values)
        await self._connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=rest))

    async def put_all(self, table: Table, rows: Sequence[Values]) -> None:
        """Insert rows, or replace those with their primary keys; in one statement's round trips."""
        self._expect_open()
        if not rows:
            return
        statement = self._insert(table)
        rest = {name: statement.excluded[name] for name in rows[0] if not table.c[name].primary_key}
        replaced = statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=rest)
        await self._connection.execute(replaced, list(rows))

    async def change_all(self, statement: Update, rows: Sequence[Values]) -> None:
        """The same change with each of these parameters."""
        self._expect_open()
        if rows:
            await self._connection.execute(statement, list(rows))

    async def lock(self, number: int) -> None:
        """Wait until no other transaction holds this lock, then hold it to the end; on SQLite every writer does."""
        if self._connection.dialect.name == "postgresql":
            await self._connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})

    def day_of(self, time: ColumnElement[Any]) -> ColumnElement[Any]:
        """The beginning of the time's day, in UTC."""
        if self._connection.dialect.name == "postgresql":
            return type_coerce(func.date_trunc("day", time, "UTC"), UtcTime)
        return type_coerce(func.substr(time, 1, 10) + " 00:00:00.000000", UtcTime)

    def _expect_open(self) -> None:
        assert self._writes, "a unit of work that only reads writes nothing"
        assert not self._committed, "this unit of work is committed: what is written now would be lost"


def _table_of(statement: Any) -> str:
    return str(statement.table.name)


# Without the rows' values in it a statement is compiled once; SQLAlchemy puts in as many rows as are given, a few hundred at
# a time.


@lru_cache
def _adding_new(insert_into: Callable[[Table], Any], table: Table, returning: tuple[str, ...]) -> Any:
    return insert_into(table).on_conflict_do_nothing().returning(*(table.c[name] for name in returning))


@lru_cache
def _adding_up(insert_into: Callable[[Table], Any], table: Table) -> Any:
    statement = insert_into(table)
    total = table.c.quantity + statement.excluded.quantity
    keys = list(table.primary_key.columns)
    upsert = statement.on_conflict_do_update(index_elements=keys, set_={"quantity": total})
    return upsert.returning(table.c.quantity)


class Rows:
    """What a port over rows has: the transaction that it works in."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction


def for_update(statement: Select[Any], *, skip_locked: bool = False) -> Select[Any]:
    """Lock the rows against other writers, but not against rows that refer to them; SQLite's writer is alone anyway."""
    return statement.with_for_update(key_share=True, skip_locked=skip_locked)
