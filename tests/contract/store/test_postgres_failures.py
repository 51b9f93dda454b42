"""A real PostgreSQL that is killed, hangs, is slow, read-only or full: what units of work say, and that all comes back."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sized

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.store import samples
from tests.faulty_proxy import FaultyProxy
from tests.postgres import DURABLE, INSTALL_HINT, PostgresServer, find_programs

from trellis.errors import Reason, Unavailable
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.store.engine import create_engine_for
from trellis.server.store.migrations import migrate
from trellis.server.store.patience import Patience
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(120)]
_SHORT = Patience(connect=2, statement=1.0, answer=1.5, ping=0.5, pool=1.0)
_BOUND = 20.0
"""Seconds: far more than is waited, for a machine that has much to do; far less than for ever."""
_FEW = {"max_connections": "20", "superuser_reserved_connections": "3"}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One for this file: others would not like what happens to it."""
    programs = find_programs()
    if programs is None:
        if os.environ.get("CI") == "true":
            pytest.fail(INSTALL_HINT)
        pytest.skip(INSTALL_HINT)
    started = PostgresServer(programs, {**DURABLE, **_FEW})
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def template(server: PostgresServer) -> str:
    name = server.create_database()
    asyncio.run(migrate(server.url(name)))
    return name


@pytest.fixture
def name(server: PostgresServer, template: str) -> Iterator[str]:
    found = server.create_database(template)
    yield found
    server.drop_database(found)


@pytest.fixture
def proxy(server: PostgresServer) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.socket) as between:
        yield between


@pytest.fixture
async def engine(server: PostgresServer, name: str, proxy: FaultyProxy) -> AsyncIterator[AsyncEngine]:
    """Connections go through the proxy."""
    made = create_engine_for(server.tcp_url(name, proxy.port), _SHORT)
    yield made
    await made.dispose()


@pytest.fixture
def units(engine: AsyncEngine) -> UnitOfWorkFactory:
    return SqlUnitOfWorkFactory(engine)


async def add(units: UnitOfWorkFactory, tenant: str) -> None:
    async with units() as unit:
        await unit.tenants.add(samples.tenant(tenant))
        await unit.commit()


async def tenants(units: UnitOfWorkFactory) -> set[str]:
    async with units(write=False) as unit:
        return {tenant.tenant_id for tenant in (await unit.tenants.list(1000, None)).items}


async def refused(units: UnitOfWorkFactory) -> tuple[Unavailable, float]:
    """How a write fails now, and after how many seconds."""
    begun = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await add(units, "never")
    return caught.value, time.monotonic() - begun


class Writers:
    """Four that write until they are stopped, and keep what they were told."""

    def __init__(self, units: UnitOfWorkFactory) -> None:
        self._units = units
        self._stopped = False
        self.acknowledged: set[str] = set()
        self.refused: dict[str, Unavailable] = {}

    async def write(self, worker: int) -> None:
        number = 0
        while not self._stopped:
            number += 1
            tenant = f"t-{worker}-{number}"
            try:
                await add(self._units, tenant)
            except Unavailable as error:
                self.refused[tenant] = error
                await asyncio.sleep(0.05)
            else:
                self.acknowledged.add(tenant)

    async def until(self, counted: Sized, more: int) -> None:
        wanted = len(counted) + more
        while len(counted) < wanted:
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._stopped = True


async def test_a_killed_server_loses_no_commit_and_the_pool_recovers(
    server: PostgresServer, engine: AsyncEngine, units: UnitOfWorkFactory
) -> None:
    writers = Writers(units)
    async with asyncio.TaskGroup() as group:
        for worker in range(4):
            group.create_task(writers.write(worker))
        for _ in range(2):
            await writers.until(writers.acknowledged, 40)
            server.kill()
            await writers.until(writers.refused, 4)
            server.start_again()  # not in a thread: the kernel ends it with the thread that started it
        await writers.until(writers.acknowledged, 40)
        writers.stop()
    found = await tenants_of(engine)
    assert writers.acknowledged <= found <= writers.acknowledged | writers.refused.keys()
    assert all(error.retry_after for error in writers.refused.values())


async def tenants_of(engine: AsyncEngine) -> set[str]:
    async with engine.connect() as connection:
        return set(await connection.scalars(text("SELECT tenant_id FROM tenants")))


async def test_a_black_hole_holds_no_call_for_ever(
    engine: AsyncEngine, units: UnitOfWorkFactory, proxy: FaultyProxy
) -> None:
    async with units() as first, units() as second:  # two connections that live
        assert await first.tenants.get("acme") is await second.tenants.get("acme") is None
    proxy.swallow()
    error, seconds = await refused(units)
    assert "can't be reached" in str(error)
    assert seconds < _BOUND
    begun = time.monotonic()
    failed = await asyncio.gather(*(add(units, f"n{n}") for n in range(40)), return_exceptions=True)
    assert all(isinstance(error, Unavailable) for error in failed)
    assert time.monotonic() - begun < 2 * _BOUND
    proxy.heal()
    proxy.cut()
    await add(units, "after")
    assert "after" in await tenants(units)


async def test_a_server_that_hangs_is_given_up_and_found_again(
    server: PostgresServer, units: UnitOfWorkFactory
) -> None:
    await eventually(lambda: add(units, "before"))
    server.signal(signal.SIGSTOP)
    try:
        error, seconds = await refused(units)
        assert seconds < _BOUND
        assert error.reason == Reason.DATABASE_BUSY
    finally:
        server.signal(signal.SIGCONT)
    await eventually(lambda: add(units, "after"))
    assert {"before", "after"} <= await tenants(units)


async def eventually(call: object) -> None:
    """Until it goes through, as the SDK does."""
    async with asyncio.timeout(60):
        while True:
            try:
                await call()  # type: ignore[operator]
            except Unavailable:
                await asyncio.sleep(0.1)
            else:
                return


async def test_a_read_only_database_answers_reads_and_says_why_it_takes_no_writes(
    server: PostgresServer, engine: AsyncEngine, units: UnitOfWorkFactory
) -> None:
    await eventually(lambda: add(units, "before"))
    assert await tenants(units) == {"before"}  # by the connection that is to be refused
    server.change("default_transaction_read_only", "on")
    try:
        await until_read_only(engine)
        error, _ = await refused(units)
        assert "takes no writes" in str(error)
        assert error.retry_after
        assert await tenants(units) == {"before"}
    finally:
        server.change("default_transaction_read_only", "off")
    await eventually(lambda: add(units, "after"))
    assert await tenants(units) == {"before", "after"}


async def until_read_only(engine: AsyncEngine) -> None:
    """Each backend reads its settings anew by itself; there is one."""
    async with asyncio.timeout(60), engine.connect() as connection:
        while await connection.scalar(text("SHOW default_transaction_read_only")) != "on":
            await connection.rollback()
            await asyncio.sleep(0.01)


async def test_a_standby_answers_reads_until_it_is_promoted(server: PostgresServer, units: UnitOfWorkFactory) -> None:
    await eventually(lambda: add(units, "before"))
    assert await tenants(units) == {"before"}
    server.kill()
    server.start_again(standby=True)
    await eventually(lambda: tenants(units))
    error, _ = await refused(units)
    assert "takes no writes" in str(error)
    server.execute("SELECT pg_promote()")
    await eventually(lambda: add(units, "after"))
    assert await tenants(units) == {"before", "after"}


async def test_no_room_for_a_connection_is_said_and_passes(
    server: PostgresServer, name: str, units: UnitOfWorkFactory
) -> None:
    # An ordinary role, for the last places are kept for superusers.
    server.execute("DROP ROLE IF EXISTS ordinary; CREATE ROLE ordinary LOGIN; GRANT pg_write_all_data TO ordinary")
    server.execute("GRANT pg_read_all_data TO ordinary")
    url = server.url(name).replace("trellis@", "ordinary@")
    greedy = create_engine_for(url, _SHORT)
    ours = create_engine_for(url, _SHORT)
    try:
        held = [await greedy.connect() for _ in range(17)]
        error, seconds = await refused(SqlUnitOfWorkFactory(ours))
        assert seconds < _BOUND
        assert error.retry_after
        for connection in held:
            await connection.close()
        await greedy.dispose()
        await eventually(lambda: add(SqlUnitOfWorkFactory(ours), "after"))
    finally:
        await greedy.dispose()
        await ours.dispose()


async def test_a_statement_that_takes_too_long_is_ended_by_the_server(engine: AsyncEngine) -> None:
    units = SqlUnitOfWorkFactory(engine)

    async def sleep() -> None:
        async with units(write=False) as unit:
            await unit.tenants._transaction._connection.execute(text("SELECT pg_sleep(60)"))  # type: ignore[attr-defined]

    begun = time.monotonic()
    with pytest.raises(Unavailable):
        await sleep()
    assert time.monotonic() - begun < _BOUND
    await add(units, "after")


async def test_a_slow_network_is_only_slow(units: UnitOfWorkFactory, proxy: FaultyProxy) -> None:
    proxy.delay = 0.02
    await add(units, "slow")
    assert await tenants(units) == {"slow"}


async def test_a_connection_cut_at_any_byte_leaves_all_or_nothing(
    engine: AsyncEngine, units: UnitOfWorkFactory, proxy: FaultyProxy
) -> None:
    cut: set[str] = set()
    acknowledged: set[str] = set()
    for number in range(24):
        tenant = f"c{number}"
        proxy.cut_after = number * 80 + 1
        try:
            async with units() as unit:
                await unit.tenants.add(samples.tenant(tenant))
                await unit.jobs.add(samples.job(1, tenant))
                await unit.commit()
        except Unavailable:
            cut.add(tenant)
        else:
            acknowledged.add(tenant)
        proxy.heal()
    assert cut
    assert acknowledged
    async with engine.connect() as connection:
        with_jobs = set(await connection.scalars(text("SELECT tenant FROM tuning_jobs")))
    assert await tenants(units) == with_jobs
    assert acknowledged <= with_jobs
