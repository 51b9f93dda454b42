"""Budgets that are used up are counted, and named in the log when it happens."""

from dataclasses import replace

from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from tests.contract.control.platform import Platform

from trellis.server.control.measure_budgets import MeasureBudgets
from trellis.server.domain.ledger import EntryKind, LedgerEntry, Meter
from trellis.server.domain.quota import Budget, BudgetMeter, Period, Quota


def reached(meter: BudgetMeter, limit: str) -> float | None:
    return REGISTRY.get_sample_value("trellis_budgets_reached", {"meter": meter.value, "limit": limit})


async def settle(platform: Platform, tokens: int) -> None:
    entry = LedgerEntry("acme", f"{tokens}", EntryKind.SETTLE, Meter.PROMPT_TOKENS, tokens, platform.clock.now())
    async with platform.units() as unit:
        await unit.ledger.append([entry])
        await unit.commit()


async def test_each_limit_that_is_reached_is_counted_and_said_once(platform: Platform) -> None:
    day, month = (Budget(BudgetMeter.TOKENS, period, 100, 150) for period in (Period.DAY, Period.MONTH))
    async with platform.units() as unit:
        tenant = await unit.tenants.get("acme", for_update=True)
        assert tenant is not None
        await unit.tenants.save(replace(tenant, quota=Quota(budgets=(day, month))))
        await unit.commit()
    step = MeasureBudgets(platform.control())

    async def look() -> list[tuple[str, str, float]]:
        with capture_logs() as logs:
            await step.once()
        assert {log["event"] for log in logs} <= {"budget_reached"}
        assert {log["tenant"] for log in logs} <= {"acme"}
        return [(log["period"], log["limit"], log["used"]) for log in logs]

    await settle(platform, 99)
    assert await look() == []
    assert (reached(BudgetMeter.TOKENS, "soft"), reached(BudgetMeter.TOKENS, "hard")) == (0, 0)
    await settle(platform, 1)
    assert await look() == [("DAY", "soft", 100), ("MONTH", "soft", 100)]
    assert await look() == []
    await settle(platform, 50)
    assert await look() == [("DAY", "hard", 150), ("MONTH", "hard", 150)]
    assert (reached(BudgetMeter.TOKENS, "soft"), reached(BudgetMeter.TOKENS, "hard")) == (2, 2)
    assert reached(BudgetMeter.ACCELERATOR_SECONDS, "soft") == 0
    platform.clock.pass_seconds(24 * 3600)
    assert await look() == []
    assert (reached(BudgetMeter.TOKENS, "soft"), reached(BudgetMeter.TOKENS, "hard")) == (1, 1)
