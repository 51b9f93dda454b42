"""Priorities within what a tenant's quota allows, and the estimate that a job gets with the report on its data."""

from dataclasses import replace

import pytest
from tests.server_fakes import World, submit, upload, validate

from trellis.errors import InvalidArgument
from trellis.server.app.job_preparation import prepare
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.ledger import Meter
from trellis.server.domain.quota import Quota


async def _allow(world: World, highest: int | None) -> None:
    async with world.context.units() as unit:
        tenant = await unit.tenants.get("acme", for_update=True)
        assert tenant is not None
        await unit.tenants.save(replace(tenant, quota=Quota(max_priority=highest)))
        await unit.commit()


@pytest.mark.parametrize("priority", [-101, 101])
async def test_a_priority_has_a_range(world: World, base: BaseModel, priority: int) -> None:
    await upload(world.context, "acme")
    with pytest.raises(InvalidArgument, match="is not between -100 and 100") as caught:
        await submit(world.context, "acme", priority=priority)
    assert [violation.field for violation in caught.value.violations] == ["tuning_job.priority"]


@pytest.mark.parametrize(("highest", "refused"), [(None, 1), (0, 1), (5, 6)])
async def test_a_priority_is_not_above_the_tenants(
    world: World, base: BaseModel, highest: int | None, refused: int
) -> None:
    await upload(world.context, "acme")
    await _allow(world, highest)
    with pytest.raises(InvalidArgument, match=f"{refused} is more than {highest or 0}, the highest that the quota of"):
        await submit(world.context, "acme", priority=refused)
    job = await submit(world.context, "acme", priority=refused - 1)
    assert job.priority == refused - 1
    assert (await submit(world.context, "acme", priority=-100)).priority == -100


async def test_a_job_is_estimated_and_held_for_when_the_report_is_there(world: World, base: BaseModel) -> None:
    version = await upload(world.context, "acme")
    early = await submit(world.context, "acme")
    assert early.estimate is None
    found = await validate(world.context, version, base)
    assert found.tokens is not None
    late = await submit(world.context, "acme", settings={"epochs": 2, "held_out_fraction": 0.5})
    assert late.estimate is not None
    assert late.estimate.trained_tokens == found.tokens  # half of the lines, twice
    async with world.context.units() as unit:
        prepared = await prepare(unit, early, world.context.settings.needs, world.context.now())
        await unit.commit()
    assert prepared is not None
    async with world.context.units(write=False) as unit:
        for job in (late, prepared):
            assert job.estimate is not None
            assert await unit.ledger.held(job.uid) == {
                Meter.ACCELERATOR_MILLISECONDS: pytest.approx(job.estimate.accelerator_seconds * 1000, abs=1),
                Meter.TRAINED_TOKENS: job.estimate.trained_tokens,
            }
