"""The fixtures themselves: every test starts on an empty database of its own."""

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine


@pytest.mark.parametrize("turn", [1, 2])
async def test_a_database_is_fresh(database_url: str, turn: int) -> None:
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE once (turn INTEGER)"))
        await connection.execute(text("INSERT INTO once VALUES (:turn)"), {"turn": turn})
    async with engine.connect() as connection:
        assert (await connection.scalars(text("SELECT turn FROM once"))).all() == [turn]
    await engine.dispose()
