"""Base models."""

import asyncio
from dataclasses import replace

import pytest
from tests.contract.store import samples

from trellis.errors import AlreadyExists, NotFound
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.tuning_job import JobState


async def test_a_base_model_comes_back(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        await unit.base_models.add(samples.base())
        assert await unit.base_models.get("tiny") == samples.base()
        assert await unit.base_models.get("other") is None
        assert await unit.base_models.default() is None
        with pytest.raises(AlreadyExists):
            await unit.base_models.add(samples.base())


async def test_one_is_the_default(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        await unit.base_models.add(samples.base("one", is_default=True))
        await unit.base_models.add(samples.base("two", is_default=True))
        assert await unit.base_models.default() == samples.base("two", is_default=True)
        assert await unit.base_models.get("one") == samples.base("one")
        await unit.base_models.save(samples.base("one", is_default=True))
        assert await unit.base_models.default() == samples.base("one", is_default=True)
        await unit.base_models.save(samples.base("one"))
        assert await unit.base_models.default() is None


async def test_a_refused_base_model_takes_the_default_from_nobody(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        await unit.base_models.add(samples.base("one", is_default=True))
        await unit.base_models.add(samples.base("two"))
        with pytest.raises(AlreadyExists):
            await unit.base_models.add(samples.base("two", is_default=True))
        assert await unit.base_models.default() == samples.base("one", is_default=True)


async def test_of_many_defaults_at_once_one_stays(units: UnitOfWorkFactory, other_units: UnitOfWorkFactory) -> None:
    async def add(factory: UnitOfWorkFactory, number: int) -> None:
        async with factory() as unit:
            await unit.base_models.add(samples.base(f"base-{number}", is_default=True))
            await unit.commit()

    await asyncio.gather(*(add(factory, n) for n, factory in enumerate([units, other_units] * 3)))
    async with units(write=False) as unit:
        bases = (await unit.base_models.list(10, None)).items
    assert sorted(base.is_default for base in bases) == [False] * 5 + [True]


async def test_base_models_are_listed_saved_and_deleted(units: UnitOfWorkFactory) -> None:
    changed = replace(samples.base("b", seconds=1), display_name="New", etag_revision=2)
    async with units() as unit:
        for name, seconds in (("c", 0), ("b", 1), ("a", 2)):
            await unit.base_models.add(samples.base(name, seconds=seconds))
        await unit.base_models.save(changed)
        first = await unit.base_models.list(2, None)
        second = await unit.base_models.list(2, first.next_cursor)
        assert [b.base_model_id for b in [*first.items, *second.items]] == ["c", "b", "a"]
        assert first.items[1] == changed
        await unit.base_models.delete("b")
        assert await unit.base_models.get("b") is None
        with pytest.raises(NotFound):
            await unit.base_models.save(changed)


async def test_users_are_adapters_and_jobs_that_go_on(units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job(1), samples.job(2, state=JobState.SUCCEEDED))
    async with units() as unit:
        assert await unit.base_models.users("tiny") == ["tenants/acme/tuningJobs/job-1"]
        await unit.adapters.add(samples.adapter())
        assert await unit.base_models.users("tiny") == [samples.adapter().name, "tenants/acme/tuningJobs/job-1"]
        assert await unit.base_models.users("other") == []
        for number in range(10, 25):
            await unit.jobs.add(samples.job(number))
        assert len(await unit.base_models.users("tiny")) == 10
