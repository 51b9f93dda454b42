"""What a tenant may have: asked for, kept, changed, and refused where a number is wrong."""

import math
from dataclasses import replace
from typing import Any

import pytest
from tests.server_fakes import World

from trellis.errors import InvalidArgument
from trellis.server.app import tenants
from trellis.server.app.asked_quota import AskedBudget, AskedQuota
from trellis.server.app.idempotency import RequestKey
from trellis.server.domain.quota import UNLIMITED, Budget, BudgetMeter, Period, Quota
from trellis.server.domain.tenant import Tenant

MONTH = AskedBudget(BudgetMeter.TOKENS, Period.MONTH, 8, 10)
EVERYTHING = Quota(
    accelerators=4.5,
    borrowing_limit=2.0,
    lending_limit=4.5,
    running_jobs=3,
    open_jobs=0,
    dataset_bytes=2**40,
    artifact_bytes=2**53,
    deployed_adapters=2,
    requests_per_minute=60,
    tokens_per_minute=100_000,
    max_priority=-7,
)


async def made(world: World, **wanted: Any) -> Tenant:
    return await tenants.create_tenant(world.context, "acme", "", RequestKey(), **wanted)


async def updated(world: World, wanted: dict[str, Any], *mask: str) -> Tenant:
    return await tenants.update_tenant(world.context, "tenants/acme", "", wanted, mask)


async def test_a_quota_is_kept_as_it_was_asked_for(world: World) -> None:
    day = AskedBudget(BudgetMeter.ACCELERATOR_SECONDS, Period.DAY, None, 0)
    asked = AskedQuota(EVERYTHING, (MONTH, day))
    tenant = await made(world, training_weight=2.0, cohort="research", quota=asked)
    assert (tenant.training_weight, tenant.cohort) == (2.0, "research")
    budgets = (
        Budget(BudgetMeter.TOKENS, Period.MONTH, 8, 10),
        Budget(BudgetMeter.ACCELERATOR_SECONDS, Period.DAY, None, 0),
    )
    assert tenant.quota == replace(EVERYTHING, budgets=budgets)
    assert await tenants.get_tenant(world.context, "tenants/acme") == tenant


async def test_a_quota_is_replaced_as_a_whole_and_only_when_it_is_meant(world: World) -> None:
    before = await made(world, quota=AskedQuota(EVERYTHING), cohort="research", training_weight=2.0)
    fields = {"display_name": "A", "training_weight": 0.0, "cohort": "", "quota": None}
    named = await updated(world, fields)
    assert (named.quota, named.cohort, named.training_weight) == (before.quota, "research", 2.0)
    asked = AskedQuota(Quota(open_jobs=3), (MONTH,))
    changed = await updated(world, {**fields, "quota": asked}, "quota")
    assert changed.quota == Quota(open_jobs=3, budgets=(Budget(BudgetMeter.TOKENS, Period.MONTH, 8, 10),))
    assert (changed.display_name, changed.cohort) == ("A", "research")
    assert (await updated(world, fields, "quota")).quota == UNLIMITED
    cleared = await updated(world, fields, "*")
    assert (cleared.cohort, cleared.training_weight) == ("", 1.0)


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        (AskedQuota(Quota(accelerators=-1.0)), ["accelerators"]),
        (AskedQuota(Quota(accelerators=math.nan)), ["accelerators"]),
        (AskedQuota(Quota(accelerators=math.inf)), ["accelerators"]),
        (AskedQuota(Quota(accelerators=4.0, borrowing_limit=-0.5)), ["borrowing_limit"]),
        (AskedQuota(Quota(borrowing_limit=1.0, lending_limit=1.0)), ["borrowing_limit", "lending_limit"]),
        (AskedQuota(Quota(accelerators=4.0, lending_limit=4.5)), ["lending_limit"]),
        (
            AskedQuota(Quota(running_jobs=-1, open_jobs=-2, dataset_bytes=-3, artifact_bytes=2**53 + 1)),
            ["running_jobs", "open_jobs", "dataset_bytes", "artifact_bytes"],
        ),
        (
            AskedQuota(Quota(deployed_adapters=-1, requests_per_minute=-1, tokens_per_minute=-1)),
            ["deployed_adapters", "requests_per_minute", "tokens_per_minute"],
        ),
        (AskedQuota(Quota(max_priority=101)), ["max_priority"]),
        (AskedQuota(Quota(max_priority=-101)), ["max_priority"]),
        (AskedQuota(budgets=(AskedBudget(None, None, 1),)), ["budgets[0].meter", "budgets[0].period"]),
        (AskedQuota(budgets=(replace(MONTH, soft_limit=11),)), ["budgets[0].soft_limit"]),
        (AskedQuota(budgets=(replace(MONTH, soft_limit=-1),)), ["budgets[0].soft_limit"]),
        (AskedQuota(budgets=(replace(MONTH, soft_limit=None, hard_limit=-1),)), ["budgets[0].hard_limit"]),
        (AskedQuota(budgets=(replace(MONTH, soft_limit=None, hard_limit=None),)), ["budgets[0]"]),
        (AskedQuota(budgets=(MONTH, replace(MONTH, period=Period.DAY), MONTH)), ["budgets[2]"]),
    ],
)
async def test_every_wrong_number_is_named(world: World, asked: AskedQuota, fields: list[str]) -> None:
    await made(world)
    with pytest.raises(InvalidArgument) as caught:
        await updated(world, {"quota": asked}, "quota")
    assert [violation.field for violation in caught.value.violations] == [f"tenant.quota.{field}" for field in fields]


async def test_all_of_a_tenant_that_is_wrong_is_said_at_once(world: World) -> None:
    quota = AskedQuota(Quota(open_jobs=-1), (replace(MONTH, soft_limit=11),))
    with pytest.raises(InvalidArgument) as caught:
        await made(world, training_weight=-1, cohort="No good", quota=quota)
    assert {violation.field for violation in caught.value.violations} == {
        *("tenant.training_weight", "tenant.cohort", "tenant.quota.open_jobs", "tenant.quota.budgets[0].soft_limit")
    }
