"""What a tenant uses of each limit, as it is told."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tests.contract.app.test_call_gate import settle
from tests.contract.app.test_quota_limits import SIZE, adapter, limit
from tests.server_fakes import World, admit, submit, upload, validate

from trellis.server.app import adapters
from trellis.server.app.quota_status import LimitStatus, get_quota_status
from trellis.server.app.rate_limiter import RateLimiter
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.ledger import Meter
from trellis.server.domain.quota import Budget, BudgetMeter, Period, Quota
from trellis.server.domain.tuning_job import EventLevel


async def statuses(world: World) -> dict[str, LimitStatus]:
    found = await get_quota_status(world.context, "tenants/acme")
    assert found.tenant.tenant_id == "acme"
    return {status.limit: status for status in found.limits}


async def test_of_a_tenant_that_nothing_binds_all_is_said_too(world: World, base: BaseModel) -> None:
    found = await statuses(world)
    every = set(Quota.__dataclass_fields__) - {"lending_limit", "max_priority", "budgets"}
    assert found.keys() == every
    # The platform's own limit holds where the quota has none.
    assert found.pop("running_jobs") == LimitStatus("running_jobs", 0, 4)
    assert all((status.used, status.held, status.allowed) == (0, 0, None) for status in found.values())


async def test_all_that_is_used_and_held_is_said(world: World, base: BaseModel, tmp_path: Path) -> None:
    tokens = Budget(BudgetMeter.TOKENS, Period.MONTH, 500, 100_000)
    seconds = Budget(BudgetMeter.ACCELERATOR_SECONDS, Period.WEEK, None, 100_000)
    limits = Quota(
        accelerators=0.01, borrowing_limit=5.0, running_jobs=2, open_jobs=10, dataset_bytes=10 * SIZE,
        artifact_bytes=2**40, deployed_adapters=7, requests_per_minute=60, tokens_per_minute=600,
        budgets=(tokens, seconds),
    )  # fmt: skip
    await validate(world.context, await upload(world.context, "acme"), base)
    job = await submit(world.context, "acme")
    await admit(world.context, job)
    await submit(world.context, "acme")
    made = await adapter(world, tmp_path, 1)
    await adapters.deploy_adapter(world.context, made.name)
    await limit(world, **{name: getattr(limits, name) for name in Quota.__dataclass_fields__})
    await settle(world, "a", 70, Meter.PROMPT_TOKENS)
    await settle(world, "b", 30, Meter.TRAINED_TOKENS)
    await settle(world, "c", 1500, Meter.ACCELERATOR_MILLISECONDS)
    async with world.context.units(write=False) as unit:
        tenant = await unit.tenants.get("acme")
    assert tenant is not None
    limiter = RateLimiter()
    await limiter.admit(world.context.units, world.clock, tenant, 600, None)
    world.clock.advance(3)

    found = await statuses(world)
    estimate = job.estimate
    assert estimate is not None
    seat = estimate.accelerators
    assert found == {
        status.limit: status
        for status in (
            LimitStatus("accelerators", seat, 0.01),
            LimitStatus("borrowing_limit", seat - 0.01, 5.0),
            LimitStatus("running_jobs", 1, 2),
            LimitStatus("open_jobs", 2, 10),
            LimitStatus("dataset_bytes", SIZE, 10 * SIZE),
            LimitStatus("artifact_bytes", made.size_bytes, 2**40),
            LimitStatus("deployed_adapters", 1, 7),
            LimitStatus("requests_per_minute", 0.0, 60),
            LimitStatus("tokens_per_minute", 570.0, 600),
            LimitStatus(
                "budgets.tokens.month", 100, 100_000, 500, estimate.trained_tokens, datetime(2026, 2, 1, tzinfo=UTC)
            ),
            replace(
                found["budgets.accelerator_seconds.week"],
                used=1.5,
                allowed=100_000,
                soft=None,
                period_end=datetime(2026, 1, 5, tzinfo=UTC),
            ),
        )
    }
    held = found["budgets.accelerator_seconds.week"].held
    assert estimate.accelerator_seconds <= held < estimate.accelerator_seconds + 0.001


async def test_whoever_is_over_a_soft_limit_hears_of_it_with_each_job(world: World, base: BaseModel) -> None:
    await upload(world.context, "acme")

    async def warnings() -> list[str]:
        job = await submit(world.context, "acme")
        async with world.context.units(write=False) as unit:
            events = await unit.jobs.events(job.uid, 0, 100)
        return [event.message for event in events if event.level is EventLevel.WARNING]

    await limit(world, budgets=(Budget(BudgetMeter.TOKENS, Period.MONTH, 100, 1_000_000),))
    await settle(world, "a", 99)
    assert await warnings() == []
    await settle(world, "b", 1)
    [warning] = await warnings()
    assert "tenants/acme has used 100 tokens of this month, of which 100 are its soft limit" in warning
    assert "2026-02-01 00:00 UTC" in warning
