"""Quotas."""

from typing import Any, Final

from trellis.server.app.asked_quota import AskedBudget, AskedQuota
from trellis.server.domain.quota import Budget, BudgetMeter, Period, Quota
from trellis.server.rpc.convert.enums import from_wire, to_wire
from trellis.v1 import tenant_pb2 as pb

_METER: Final = "METER_"
_PERIOD: Final = "PERIOD_"
_LIMITS: Final = tuple(field.name for field in pb.Quota.DESCRIPTOR.fields if field.name != "budgets")
"""The fields that are the domain's as they are, unset for None."""


def quota(value: Quota) -> pb.Quota:
    """The quota on the wire."""
    limits: dict[str, Any] = {name: getattr(value, name) for name in _LIMITS}
    return pb.Quota(**limits, budgets=map(_budget, value.budgets))


def asked_quota(message: pb.Quota) -> AskedQuota:
    """The quota that a request asks for; raises InvalidArgument for a meter or period that nobody knows."""
    limits: dict[str, Any] = {name: getattr(message, name) if message.HasField(name) else None for name in _LIMITS}  # type: ignore[arg-type]
    budgets = (_asked_budget(budget, f"tenant.quota.budgets[{at}]") for at, budget in enumerate(message.budgets))
    return AskedQuota(Quota(**limits), tuple(budgets))


def _budget(value: Budget) -> pb.Budget:
    return pb.Budget(
        meter=to_wire(pb.Budget.Meter, _METER, value.meter),
        period=to_wire(pb.Budget.Period, _PERIOD, value.period),
        soft_limit=value.soft_limit,
        hard_limit=value.hard_limit,
    )


def _asked_budget(message: pb.Budget, field: str) -> AskedBudget:
    return AskedBudget(
        meter=from_wire(pb.Budget.Meter, _METER, BudgetMeter, message.meter, f"{field}.meter"),
        period=from_wire(pb.Budget.Period, _PERIOD, Period, message.period, f"{field}.period"),
        soft_limit=message.soft_limit if message.HasField("soft_limit") else None,
        hard_limit=message.hard_limit if message.HasField("hard_limit") else None,
    )
