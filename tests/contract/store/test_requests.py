"""Which creates were answered."""

import asyncio
from dataclasses import replace

import pytest
from tests.contract.store import samples

from trellis.errors import AlreadyExists, Reason
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.remembered_request import RememberedRequest

REQUEST = RememberedRequest(
    "CreateTuningJob tenants/acme", "r-1", "f" * 64, "tenants/acme/tuningJobs/job-1", samples.NOW
)


async def test_a_request_is_remembered(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        assert await unit.requests.get(REQUEST.scope, "r-1") is None
        await unit.requests.add(REQUEST)
        assert await unit.requests.get(REQUEST.scope, "r-1") == REQUEST
        assert await unit.requests.get("CreateTuningJob tenants/other", "r-1") is None
        with pytest.raises(AlreadyExists) as caught:
            await unit.requests.add(replace(REQUEST, fingerprint="0"))
        assert caught.value.reason == Reason.REQUEST_ID_REUSED


async def test_of_the_same_request_at_once_one_is_answered(
    units: UnitOfWorkFactory, other_units: UnitOfWorkFactory
) -> None:
    await samples.seed(units)

    async def create(factory: UnitOfWorkFactory, number: int) -> None:
        async with factory() as unit:
            await unit.jobs.add(samples.job(number))
            await unit.requests.add(REQUEST)
            await unit.commit()

    ended = await asyncio.gather(
        *(create(factory, n) for n, factory in enumerate([units, other_units] * 3)), return_exceptions=True
    )
    assert [error for error in ended if error is None] == [None]
    assert sum(isinstance(error, AlreadyExists) for error in ended) == 5
    async with units(write=False) as unit:
        assert len((await unit.jobs.list("acme", [], 10, None)).items) == 1


async def test_old_ones_are_forgotten_in_batches(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        for number in range(7):
            await unit.requests.add(replace(REQUEST, request_id=f"r-{number}", create_time=samples.at(number)))
        await unit.requests.add(replace(REQUEST, scope="CreateExport tenants/acme", create_time=samples.at(0)))
        await unit.commit()
    counts = []
    for _ in range(3):
        async with units() as unit:
            counts.append(await unit.requests.prune(samples.at(4), 3))
            await unit.commit()
    assert counts == [3, 2, 0]
    async with units(write=False) as unit:
        kept = [n for n in range(7) if await unit.requests.get(REQUEST.scope, f"r-{n}")]
        assert await unit.requests.get("CreateExport tenants/acme", "r-1") is None
    assert kept == [4, 5, 6]
