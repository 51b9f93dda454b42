"""Migrations of a PostgreSQL that is in use: nobody waits long behind them, and they say for whom they wait themselves."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from tests.postgres import PostgresServer

from trellis.server import database_start
from trellis.server.database_start import Readiness, until_usable
from trellis.server.store.migrations import downgrade, look, migrate
from trellis.server.store.migrations.__main__ import main
from trellis.server.store.migrations.locks import LockHeldError, LockPatience
from trellis.server.store.migrations.session import LOCK

pytestmark = pytest.mark.postgres
Session = psycopg.Connection[tuple[object, ...]]
QUICK = LockPatience(once=0.3, pause=0.2, together=60.0, beside=60.0)
BRIEF = LockPatience(once=0.3, pause=0.1, together=0.5, beside=0.5)
INDEX = "ix_requests_create_time"
ROW = "INSERT INTO requests VALUES ('CreateTuningJob', gen_random_uuid()::text, 'f', 'tenants/a/tuningJobs/b', now(), 'a')"


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    """An empty database."""
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@contextmanager
def session(url: str, name: str = "somebody") -> Iterator[Session]:
    """One that commits each statement unless it says BEGIN."""
    address = url.replace("+psycopg", "")
    with psycopg.connect(address, application_name=name, autocommit=True) as connection:
        yield connection


@contextmanager
def in_transaction(url: str, statement: str, name: str = "a long report") -> Iterator[Session]:
    """A session with an open transaction, in which this statement was run."""
    with session(url, name) as connection:
        connection.execute("BEGIN")
        connection.execute(statement.encode())
        yield connection


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so():
            await asyncio.sleep(0.02)


def waits_for_a_lock(url: str, words: str) -> bool:
    question = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND position(%s IN query) > 0"
    with session(url) as other:
        return other.execute(question, [words]).fetchone() is not None


def index(url: str) -> tuple[int, bool] | None:
    """Its oid, and whether it is valid."""
    with session(url) as other:
        found = other.execute("SELECT indexrelid, indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [INDEX])
        return found.fetchone()  # type: ignore[return-value]


async def test_others_pass_while_a_table_can_not_be_had_and_then_it_is_changed(url: str) -> None:
    await migrate(url, "v0005")
    said: list[str] = []
    with in_transaction(url, "SELECT count(*) FROM tuning_jobs WHERE uid = 'hidden'") as report:
        pid = report.info.backend_pid
        migrating = asyncio.create_task(migrate(url, "v0006", patience=QUICK, say=said.append))
        await until(lambda: sum("tried again" in sentence for sentence in said) >= 2)
        with session(url) as call:
            call.execute("SET lock_timeout = '10s'")
            waits = [await asyncio.to_thread(seconds_of, call, "SELECT count(*) FROM tuning_jobs") for _ in range(20)]
        assert max(waits) < 5
        assert not migrating.done()
        report.execute("COMMIT")
        assert (await asyncio.wait_for(migrating, 60)).found == "v0006"
    told = next(sentence for sentence in said if "tried again" in sentence)
    assert told.startswith("Migration v0006 waits for a lock on tuning_jobs, held by session")
    assert f"session {pid} (user trellis, a long report, in a transaction for" in told
    assert "idle in transaction, \"SELECT count(*) FROM tuning_jobs WHERE uid = '…'\"" in told


def seconds_of(connection: Session, statement: str) -> float:
    begun = time.monotonic()
    connection.execute(statement.encode())
    return time.monotonic() - begun


def test_the_command_gives_up_and_names_the_session(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRELLIS_DATABASE_URL", url)
    assert main(["--to", "v0005"]) == 0
    with in_transaction(url, "LOCK TABLE attempts IN ACCESS SHARE MODE") as report:
        assert main(["--lock-wait", "1"]) == 6
        pid = report.info.backend_pid
    said = capsys.readouterr()
    assert said.err.startswith(f"Failed: Migration v0006 waits for a lock on attempts, held by session {pid} (")
    assert (
        f"It was given 2 s. Wait for its end, or end it (SELECT pg_terminate_backend({pid})), and migrate again."
        in said.err
    )
    assert asyncio.run(look(url)).found == "v0005", "the step before it is done, and nothing of it"
    assert main(["--lock-wait", "1"]) == 0


async def test_a_server_that_migrates_at_its_start_says_that_it_waits(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_start, "_LOCKS", BRIEF)
    await migrate(url, "v0005")
    readiness, stop = Readiness(), asyncio.Event()
    with in_transaction(url, "SELECT count(*) FROM tuning_jobs") as report:
        waiting = asyncio.create_task(until_usable(url, "at_start", readiness, stop))
        await until(lambda: "which wait for what others hold" in readiness.sentence)
        report.execute("COMMIT")
        assert await asyncio.wait_for(waiting, 60)
    assert (await look(url)).fits


async def test_rows_are_written_while_an_index_is_made(url: str) -> None:
    await migrate(url, "v0007")
    with in_transaction(url, ROW, "a slow writer") as writer, session(url) as other:
        migrating = asyncio.create_task(migrate(url, patience=QUICK))
        await until(lambda: waits_for_a_lock(url, "CREATE INDEX CONCURRENTLY"))
        other.execute("SET lock_timeout = '2s'")
        for _ in range(10):
            other.execute(ROW)
        assert not migrating.done()
        writer.execute("COMMIT")
        assert (await asyncio.wait_for(migrating, 60)).fits
    found = index(url)
    assert found is not None
    assert found[1]
    with session(url) as reader:
        reader.execute("SET enable_seqscan = off")
        plan = reader.execute("EXPLAIN SELECT scope FROM requests WHERE create_time < now()").fetchall()
        assert INDEX in str(plan)


async def test_what_a_try_that_failed_has_left_is_made_anew(url: str) -> None:
    await migrate(url, "v0007")
    with in_transaction(url, ROW, "a slow writer") as writer:
        with pytest.raises(LockHeldError, match=rf"session {writer.info.backend_pid} \(user trellis, a slow writer"):
            await migrate(url, patience=BRIEF)
        left = index(url)
        assert left is not None
        assert not left[1], "it is not used, and costs each writer its time"
        assert (await look(url)).found == "v0007"
    assert (await migrate(url)).fits
    made = index(url)
    assert made is not None
    assert made[1]
    await downgrade(url, "v0008")
    with session(url) as other:  # as if it had been killed before it could write down that it is done
        other.execute("UPDATE alembic_version SET version_num = 'v0007'")
    assert (await migrate(url)).fits
    assert index(url) == made, "one that is good is not made again"
    await downgrade(url, "v0007")
    assert index(url) is None


async def test_several_migrations_do_not_wait_for_each_other(url: str) -> None:
    await migrate(url, "v0007")
    with in_transaction(url, ROW) as writer:
        first = asyncio.create_task(migrate(url, patience=QUICK))
        await until(lambda: waits_for_a_lock(url, "CREATE INDEX CONCURRENTLY"))
        second = asyncio.create_task(migrate(url, patience=QUICK))
        with pytest.raises(LockHeldError, match=r"Another migration has not ended: .*trellis-migrations.*CREATE INDEX"):
            await migrate(url, patience=BRIEF)
        assert not first.done()
        writer.execute("COMMIT")
        assert [found.fits for found in await asyncio.wait_for(asyncio.gather(first, second), 60)] == [True, True]


async def test_a_server_of_before_that_waits_in_a_transaction_is_let_through(url: str) -> None:
    await migrate(url, "v0007")
    with in_transaction(url, ROW) as writer, session(url) as old:
        migrating = asyncio.create_task(migrate(url, patience=QUICK))
        await until(lambda: waits_for_a_lock(url, "CREATE INDEX CONCURRENTLY"))
        old.execute("SET deadlock_timeout = '1h'")  # so that it is the migration that gives way
        old.execute("BEGIN")
        waiting = asyncio.create_task(asyncio.to_thread(old.execute, f"SELECT pg_advisory_xact_lock({LOCK})".encode()))
        await until(lambda: waits_for_a_lock(url, "pg_advisory_xact_lock"))
        writer.execute("COMMIT")
        await asyncio.wait_for(waiting, 60)  # each waits for the other now, until the index is given up for a moment
        assert not migrating.done()
        old.execute("COMMIT")
        assert (await asyncio.wait_for(migrating, 60)).fits
