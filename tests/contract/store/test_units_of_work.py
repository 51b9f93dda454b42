"""One transaction a unit: all or nothing, readers see one state, and errors that may pass say so."""

import asyncio
import math
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.store import samples

from trellis.errors import Aborted, AlreadyExists, Unavailable
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.tuning_job import MetricPoint
from trellis.server.store import postgresql as engine_module
from trellis.server.store.engine import create_engine_for, options_for
from trellis.server.store.failures import translated
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory


async def test_without_commit_nothing_happened(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        await unit.tenants.add(samples.tenant())
    async with units(write=False) as unit:
        assert await unit.tenants.get("acme") is None


async def test_an_error_takes_all_back(units: UnitOfWorkFactory) -> None:
    async def fail() -> None:
        async with units() as unit:
            await unit.tenants.add(samples.tenant())
            await unit.jobs.add(samples.job())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        await fail()
    async with units(write=False) as unit:
        assert await unit.tenants.get("acme") is None
        assert await unit.jobs.get("acme", "job-1") is None


async def test_a_refused_add_leaves_the_unit_usable(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    async with units() as unit:
        with pytest.raises(AlreadyExists):
            await unit.tenants.add(samples.tenant())
        await unit.tenants.add(samples.tenant("other"))
        await unit.commit()
    async with units(write=False) as unit:
        assert await unit.tenants.get("other") is not None


async def test_a_cancelled_unit_lets_go(units: UnitOfWorkFactory) -> None:
    inside = asyncio.Event()

    async def hang() -> None:
        async with units() as unit:
            await unit.tenants.add(samples.tenant())
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with units() as unit:
        await unit.tenants.add(samples.tenant())
        await unit.commit()


async def test_units_cancelled_at_any_point_leave_the_database_usable(units: UnitOfWorkFactory) -> None:
    async def add(number: int) -> None:
        async with units() as unit:
            await unit.tenants.add(samples.tenant(f"t{number}"))
            await unit.commit()

    for number in range(12):
        task = asyncio.create_task(add(number))
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await add(100)
    async with units(write=False) as unit:
        assert await unit.tenants.get("t100") is not None


async def test_a_cancelled_read_in_a_unit_that_writes_blocks_no_writer(units: UnitOfWorkFactory) -> None:
    """Not even while the cancelled call's traceback, which holds the statement that it was in, lies about."""
    async with units() as unit:
        for number in range(20):
            await unit.tenants.add(samples.tenant(f"t{number}"))
        await unit.commit()

    async def read() -> None:
        async with units() as unit:
            for _ in range(20):
                await unit.tenants.list(10, None)

    held = []
    for number in range(50):
        task = asyncio.create_task(read())
        await asyncio.sleep(0.0004 * number)
        task.cancel()
        held.append(await asyncio.gather(task, return_exceptions=True))
        async with asyncio.timeout(5), units() as unit:
            await unit.tenants.add(samples.tenant(f"next{number}"))
            await unit.commit()
    assert any(isinstance(one, asyncio.CancelledError) for (one,) in held)


async def test_readers_see_one_state(units: UnitOfWorkFactory, other_units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    async with units(write=False) as reader:
        assert len((await reader.tenants.list(10, None)).items) == 1
        async with other_units() as writer:
            await writer.tenants.add(samples.tenant("other"))
            await writer.commit()
        assert len((await reader.tenants.list(10, None)).items) == 1
    async with units(write=False) as reader:
        assert len((await reader.tenants.list(10, None)).items) == 2


async def test_without_a_snapshot_each_query_sees_the_newest_state(
    units: UnitOfWorkFactory, other_units: UnitOfWorkFactory, database: str
) -> None:
    if database == "sqlite":
        pytest.skip("SQLite has a snapshot anyway")
    async with units(write=False, snapshot=False) as reader:
        assert await reader.tenants.get("acme") is None
        async with other_units() as writer:
            await writer.tenants.add(samples.tenant())
            await writer.commit()
        assert await reader.tenants.get("acme") is not None


@pytest.mark.parametrize("snapshot", [True, False])
async def test_a_reader_writes_nothing(units: UnitOfWorkFactory, snapshot: bool) -> None:
    with pytest.raises(AssertionError, match="only reads"):
        async with units(write=False, snapshot=snapshot) as unit:
            await unit.tenants.add(samples.tenant())
    async with units(write=False) as unit:
        assert await unit.tenants.get("acme") is None


async def test_connections_that_died_at_rest_are_made_anew(
    units: UnitOfWorkFactory, other_units: UnitOfWorkFactory, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database == "sqlite":
        pytest.skip("SQLite has no connections that die")
    monkeypatch.setattr(engine_module, "_REST_SECONDS", 0.0)
    async with units() as one, units() as two:
        assert await one.tenants.get("acme") is await two.tenants.get("acme") is None
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid != pg_backend_pid()"
    async with other_units() as unit:
        await unit.tenants._transaction._connection.execute(text(others))  # type: ignore[attr-defined]
    async with units() as one, units(write=False) as two:
        assert await one.tenants.get("acme") is await two.tenants.get("acme") is None


async def test_a_reader_commits_nothing(units: UnitOfWorkFactory) -> None:
    async with units(write=False) as unit:
        with pytest.raises(AssertionError, match="nothing to commit"):
            await unit.commit()


async def test_nothing_is_written_after_the_commit(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        await unit.commit()
        with pytest.raises(AssertionError, match="would be lost"):
            await unit.tenants.add(samples.tenant())


async def test_writers_take_turns(units: UnitOfWorkFactory, other_units: UnitOfWorkFactory) -> None:
    async def add(factory: UnitOfWorkFactory, number: int) -> None:
        async with factory() as unit:
            await unit.tenants.add(samples.tenant(f"t{number}"))
            await unit.commit()

    await asyncio.gather(*(add(factory, n) for n, factory in enumerate([units, other_units] * 10)))
    async with units(write=False) as unit:
        assert len((await unit.tenants.list(100, None)).items) == 20


async def test_what_belongs_to_nothing_is_aborted(units: UnitOfWorkFactory) -> None:
    async def add() -> None:
        async with units() as unit:
            await unit.datasets.add(samples.dataset(of="gone"))
            await unit.commit()

    with pytest.raises(Aborted) as caught:
        await add()
    assert caught.value.retry_after is not None


async def test_a_missing_value_is_a_bug(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        with pytest.raises(IntegrityError) as caught:
            await unit.tenants.add(replace(samples.tenant(), display_name=None))  # type: ignore[arg-type]
    assert translated(caught.value) is None


async def test_a_locked_sqlite_is_unavailable(engine: AsyncEngine, units: UnitOfWorkFactory, database: str) -> None:
    if database != "sqlite":
        pytest.skip("PostgreSQL has many writers")
    async with units(), engine.connect() as second:
        await second.execute(text("PRAGMA busy_timeout = 0"))
        await second.rollback()
        await second.execution_options(**options_for(engine, write=True))
        with pytest.raises(DBAPIError) as caught:
            await second.begin()
    assert isinstance(translated(caught.value), Unavailable)


async def test_postgresql_that_is_not_there_is_unavailable() -> None:
    engine = create_engine_for("postgresql+psycopg://nobody@/nothing?host=/nonexistent")
    with pytest.raises(Unavailable):
        async with SqlUnitOfWorkFactory(engine)(write=False):
            pass
    await engine.dispose()


async def test_deadlocks_are_aborted(units: UnitOfWorkFactory, other_units: UnitOfWorkFactory, database: str) -> None:
    if database == "sqlite":
        pytest.skip("SQLite has one writer")
    await samples.seed(units, samples.job(1), samples.job(2))
    both = asyncio.Barrier(2)

    async def lock(factory: UnitOfWorkFactory, first: str, second: str) -> None:
        async with factory() as unit:
            await unit.jobs.get_by_uid(first, for_update=True)
            await both.wait()
            await unit.jobs.get_by_uid(second, for_update=True)

    one, two = "uid-acme-1", "uid-acme-2"
    ended = await asyncio.gather(lock(units, one, two), lock(other_units, two, one), return_exceptions=True)
    assert [type(error) for error in ended if error is not None] == [Aborted]


async def test_faults_of_the_code_stay_what_they_are(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(text("SELECT nonsense FROM nowhere"))
    assert translated(caught.value) is None
    assert translated(RuntimeError()) is None


async def test_odd_values_are_kept_alike(units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job(display_name="nul\0and 🪴"))
    point = MetricPoint(1, {"loss": math.nan, "grad": math.inf, "rate": 1e-9}, samples.NOW)
    async with units() as unit:
        await unit.jobs.add_metrics("uid-acme-1", [point])
        await unit.jobs.append_log("uid-acme-1", 1, "a\0b")
        await unit.commit()
    async with units(write=False) as unit:
        found = await unit.jobs.get("acme", "job-1")
        [values] = (await unit.jobs.metrics("uid-acme-1", 10, None)).items
        assert await unit.jobs.read_log("uid-acme-1", 0, 10) == [(3, 1, "a\ufffdb")]
    assert found is not None
    assert found.display_name == "nul\ufffdand 🪴"
    assert math.isnan(values.values["loss"])
    assert values.values["grad"] == math.inf
    assert values.values["rate"] == 1e-9
