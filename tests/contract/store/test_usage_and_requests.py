"""What was measured, and which creates were answered."""

import asyncio
from dataclasses import replace

import pytest
from tests.contract.store import samples

from trellis.errors import AlreadyExists, Reason
from trellis.server.app.ports import UnitOfWorkFactory, UsageRecord
from trellis.server.domain.remembered_request import RememberedRequest

REQUEST = RememberedRequest(
    "CreateTuningJob tenants/acme", "r-1", "f" * 64, "tenants/acme/tuningJobs/job-1", samples.NOW
)


def _record(key: str, quantity: float, kind: str = "training_seconds", tenant: str = "acme") -> UsageRecord:
    return UsageRecord(tenant, key, kind, quantity, "tenants/acme/tuningJobs/job-1", samples.NOW)


async def test_usage_is_counted_once_a_key(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    async with units() as unit:
        await unit.tenants.add(samples.tenant("other"))
        await unit.usage.add([_record("a", 1.5), _record("b", 2.0), _record("c", 7, "training_tokens")])
        await unit.usage.add([_record("b", 99.0), _record("d", 0.5), _record("d", 88.0)])
        await unit.usage.add([_record("a", 4.0, tenant="other")])
        await unit.usage.add([])
        assert await unit.usage.totals("acme") == {"training_seconds": 4.0, "training_tokens": 7.0}
        assert await unit.usage.totals("other") == {"training_seconds": 4.0}
        assert await unit.usage.totals("nobody") == {}


async def test_the_same_usage_from_two_servers_counts_once(
    units: UnitOfWorkFactory, other_units: UnitOfWorkFactory
) -> None:
    await samples.seed(units)
    records = [_record(str(number), 1.0) for number in range(20)]

    async def add(factory: UnitOfWorkFactory, mine: list[UsageRecord]) -> None:
        async with factory() as unit:
            await unit.usage.add(mine)
            await unit.commit()

    await asyncio.gather(add(units, records), add(other_units, records[::-1]))
    async with units(write=False) as unit:
        assert await unit.usage.totals("acme") == {"training_seconds": 20.0}


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
