"""Jobs that no waiting would let start are refused when they are submitted, with the numbers."""

from dataclasses import replace
from typing import Any

import pytest
from tests.contract.app.test_quota_limits import limit, refused, said
from tests.server_fakes import LINES, World, submit, upload, validate

from trellis.errors import FailedPrecondition, Reason
from trellis.server.app.context import Context
from trellis.server.app.never_fits import most_accelerators
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.quota import Budget, BudgetMeter, Period, Quota
from trellis.server.domain.tenant import Tenant
from trellis.server.domain.trainer_options import TrainerOptions


@pytest.fixture
async def context(world: World, base: BaseModel) -> Context:
    """A platform of 8 CPUs whose shared trainers take 4 jobs on 2 of them; the report on the data is there."""
    await validate(world.context, await upload(world.context, "acme"), base)
    options = TrainerOptions(cpus=2.0, max_jobs=4)
    settings = replace(world.context.settings, capacity_cpus=8.0, trainers=options)
    return replace(world.context, settings=settings)


async def spread(context: Context, workers: int) -> Any:
    return await submit(context, "acme", distributed={"workers": workers})


async def cohort(world: World, acme: Quota, **others: Quota) -> None:
    async with world.context.units() as unit:
        for name, quota in {"acme": acme, **others}.items():
            tenant = await unit.tenants.get(name, for_update=True)
            assert tenant is not None
            await unit.tenants.save(replace(tenant, cohort="research", quota=quota))
        await unit.commit()


async def test_no_job_is_larger_than_the_platform(context: Context) -> None:
    await spread(context, 8)
    error = await refused(spread(context, 9))
    assert isinstance(error, FailedPrecondition)
    [violation] = error.quota_violations
    assert (violation.subject, violation.limit, violation.allowed, violation.asked) == (
        "platform",
        "accelerators",
        8,
        9,
    )
    assert str(error) == "The job needs 9 CPUs, and the platform has 8 CPUs in all. Ask for fewer workers."
    small = replace(context, settings=replace(context.settings, capacity_cpus=1.0))
    assert "shared trainer" in str(await refused(submit(small, "acme")))


async def test_no_job_is_larger_than_its_tenants_quota(world: World, context: Context) -> None:
    await limit(world, accelerators=3.0)
    await spread(context, 3)
    assert said(await refused(spread(context, 4))) == (Reason.NEVER_FITS, "accelerators", 3, 0, 4)
    # On a shared trainer it takes one of its four seats: half a CPU.
    await limit(world, accelerators=0.5)
    await submit(context, "acme")
    await limit(world, accelerators=0.4)
    assert said(await refused(submit(context, "acme"))) == (Reason.NEVER_FITS, "accelerators", 0.4, 0, 0.5)


async def test_what_can_be_borrowed_may_be_asked_for(world: World, context: Context) -> None:
    await cohort(world, Quota(accelerators=3.0), globex=Quota(accelerators=4.0, lending_limit=2.0))
    await spread(context, 5)
    assert said(await refused(spread(context, 6))) == (Reason.NEVER_FITS, "accelerators", 5, 0, 6)
    await cohort(world, Quota(accelerators=3.0, borrowing_limit=1.0), globex=Quota(accelerators=4.0))
    await spread(context, 4)
    assert said(await refused(spread(context, 5))) == (Reason.NEVER_FITS, "accelerators", 4, 0, 5)


async def test_who_may_run_nothing_submits_nothing(world: World, context: Context) -> None:
    await limit(world, running_jobs=0)
    assert said(await refused(submit(context, "acme"))) == (Reason.NEVER_FITS, "running_jobs", 0, 0, 1)
    await limit(world, running_jobs=1)
    await submit(context, "acme")
    await submit(context, "acme")


@pytest.mark.parametrize(
    ("meter", "field"),
    [(BudgetMeter.TOKENS, "trained_tokens"), (BudgetMeter.ACCELERATOR_SECONDS, "accelerator_seconds")],
)
async def test_no_job_is_larger_than_a_whole_periods_budget(
    world: World, context: Context, meter: BudgetMeter, field: str
) -> None:
    estimate = (await submit(context, "acme", distributed={"workers": 1})).estimate
    assert estimate is not None
    asked = getattr(estimate, field)
    enough = int(asked) + 1
    day = Budget(meter, Period.DAY, None, enough)
    await limit(world, budgets=(day, Budget(meter, Period.MONTH, 1, None)))
    await spread(context, 1)
    await limit(world, budgets=(day, Budget(meter, Period.WEEK, None, int(asked) - 1)))
    error = await refused(spread(context, 1))
    name = f"budgets.{meter.value.lower()}.week"
    assert said(error) == (Reason.NEVER_FITS, name, int(asked) - 1, 0, asked)


async def test_all_that_does_not_fit_is_said_at_once(world: World, context: Context) -> None:
    tokens = Budget(BudgetMeter.TOKENS, Period.DAY, None, 1)
    await limit(world, running_jobs=0, accelerators=2.0, budgets=(tokens,))
    error = await refused(spread(context, 9))
    named = [(violation.subject, violation.limit) for violation in error.quota_violations]
    assert named == [
        ("platform", "accelerators"),
        ("tenants/acme", "running_jobs"),
        ("tenants/acme", "accelerators"),
        ("tenants/acme", "budgets.tokens.day"),
    ]


async def test_before_its_report_is_there_only_its_size_is_known(world: World, context: Context) -> None:
    await upload(world.context, "acme", LINES + LINES)
    await limit(world, accelerators=2.0, budgets=(Budget(BudgetMeter.TOKENS, Period.DAY, None, 0),))
    assert (await submit(context, "acme")).estimate is None
    assert said(await refused(spread(context, 3)))[:2] == (Reason.NEVER_FITS, "accelerators")


def test_the_most_that_a_tenant_may_have() -> None:
    def most(quota: Quota, cohort: str = "", **others: Quota) -> float | None:
        tenant = Tenant("acme", "", None, cohort=cohort, quota=quota)  # type: ignore[arg-type]
        return most_accelerators(tenant, {"acme": quota, **others} if cohort else {})

    assert most(Quota()) is None
    assert most(Quota(), "c", globex=Quota(accelerators=2.0)) is None
    assert most(Quota(accelerators=2.0, borrowing_limit=5.0)) == 2.0, "there is nobody to borrow from"
    assert most(Quota(accelerators=2.0), "c") == 2.0
    assert most(Quota(accelerators=0.0), "c", globex=Quota(accelerators=2.0)) == 2.0
    assert (
        most(Quota(accelerators=2.0, lending_limit=0.0), "c", globex=Quota(accelerators=3.0, lending_limit=1.0)) == 3.0
    )
    assert most(Quota(accelerators=2.0, borrowing_limit=0.5), "c", globex=Quota(accelerators=3.0)) == 2.5
    assert most(Quota(accelerators=2.0), "c", globex=Quota()) == 2.0
