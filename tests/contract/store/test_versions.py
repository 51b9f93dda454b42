"""Where a database stands to the code, who may use it, and the command that migrates it."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from tests.faulty_proxy import FaultyProxy
from tests.postgres import PostgresServer

from trellis.server.database_start import Readiness, until_usable
from trellis.server.store.migrations import DatabaseTooNewError, downgrade, look, migrate
from trellis.server.store.migrations.__main__ import main
from trellis.server.store.migrations.standing import Place


async def pretend(url: str, revision: str, least: str) -> None:
    """As code of later on would leave it."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = :found"), {"found": revision})
        await connection.execute(text("UPDATE least_revision SET revision = :least"), {"least": least})
    await engine.dispose()


async def test_where_a_database_stands(database_url: str) -> None:
    assert (await look(database_url)).place is Place.EMPTY
    assert (await migrate(database_url, "v0003")).place is Place.BEHIND
    head = await migrate(database_url)
    assert (head.place, head.found) == (Place.CURRENT, head.wanted)
    await pretend(database_url, "v9998", head.wanted)
    assert (await look(database_url)).place is Place.AHEAD
    assert (await migrate(database_url)).found == "v9998", "it is left as it is"
    await pretend(database_url, "v9999", "v9998")
    with pytest.raises(DatabaseTooNewError, match=r"at v9999, which servers of v\d+ can't use"):
        await migrate(database_url)


async def test_a_server_waits_for_migrations_and_refuses_a_database_that_is_too_new(database_url: str) -> None:
    readiness, stop = Readiness(), asyncio.Event()
    waiting = asyncio.create_task(until_usable(database_url, "wait", readiness, stop))
    await sentence(readiness, "The server waits for migrations: The database is empty")
    head = await migrate(database_url)
    assert await asyncio.wait_for(waiting, 60)
    await downgrade(database_url, "v0003")
    waiting = asyncio.create_task(until_usable(database_url, "wait", readiness, stop))
    await sentence(readiness, "The server waits for migrations: The database is at v0003")
    stop.set()
    assert not await asyncio.wait_for(waiting, 60)
    stop.clear()
    assert await until_usable(database_url, "at_start", readiness, stop)
    await pretend(database_url, "v9999", head.wanted)
    for migrates in ("wait", "at_start"):
        assert await until_usable(database_url, migrates, readiness, stop)
    await pretend(database_url, "v9999", "v9999")
    for migrates in ("wait", "at_start"):
        with pytest.raises(DatabaseTooNewError):
            await until_usable(database_url, migrates, readiness, stop)


async def sentence(readiness: Readiness, beginning: str) -> None:
    async with asyncio.timeout(60):
        while not (await readiness.missing() or "").startswith(beginning):
            await asyncio.sleep(0.02)


@pytest.mark.postgres
async def test_a_server_that_starts_before_its_database_waits_for_it(postgres_server: PostgresServer) -> None:
    name = postgres_server.create_database()
    readiness, stop = Readiness(), asyncio.Event()
    with FaultyProxy(postgres_server.socket) as proxy:
        proxy.refuses = True
        url = postgres_server.tcp_url(name, proxy.port)
        waiting = asyncio.create_task(until_usable(url, "at_start", readiness, stop))
        await sentence(readiness, "The server waits for its database, which can't be reached.")
        proxy.heal()
        assert await asyncio.wait_for(waiting, 60)
        assert (await look(url)).place is Place.CURRENT
    postgres_server.drop_database(name)


def test_the_command(database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRELLIS_DATABASE_URL", database_url)
    assert main(["--check"]) == 3
    assert "is empty" in capsys.readouterr().err
    assert main(["--to", "v0002"]) == 0
    assert main(["--check"]) == 3
    assert main([]) == main([]) == main(["--check"]) == 0
    assert "as it must be" in capsys.readouterr().out
    assert main(["--to", "v0004"]) == 1
    assert "--down" in capsys.readouterr().err
    assert main(["--to", "v0004", "--down"]) == 0
    assert "taken back to v0004" in capsys.readouterr().out
    assert main(["--to", "nothing"]) == 1
    assert main([]) == 0
    asyncio.run(pretend(database_url, "v9999", "v9999"))
    assert main([]) == main(["--check"]) == 4


def test_the_command_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRELLIS_DATABASE_URL", raising=False)
    assert main([]) == 2
    assert "TRELLIS_DATABASE_URL must be set" in capsys.readouterr().err
    nobody = f"postgresql+psycopg://trellis@/trellis?host={tmp_path}"
    assert main(["--url", nobody, "--wait", "0.1"]) == 5
    assert "did not answer within 0.1 s" in capsys.readouterr().err
