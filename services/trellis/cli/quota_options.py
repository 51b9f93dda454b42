"""Options that say what a tenant may have."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import click

from trellis.client.types import Budget, BudgetMeter, BudgetPeriod, Quota

_NONE = "none"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_METERS = {meter.lower().replace("_", "-"): meter for meter in BudgetMeter if meter is not BudgetMeter.UNSPECIFIED}
_PERIODS = {period.lower(): period for period in BudgetPeriod if period is not BudgetPeriod.UNSPECIFIED}


class Limit(click.ParamType[Any]):
    """A number, or `none` for no limit."""

    name = "NUMBER"

    def __init__(self, read: Callable[[str], float]) -> None:
        self._read = read

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it; `none` stays as it is."""
        if str(value).lower() == _NONE:
            return _NONE
        try:
            return self._read(str(value))
        except (ValueError, KeyError):
            self.fail(f"{value!r} is neither such a number nor `none`.", param, ctx)


class BudgetChange(click.ParamType[Any]):
    """A budget such as `tokens/month=800000:1000000`, or `tokens/month=none`."""

    name = "METER/PERIOD=SOFT:HARD"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read it."""
        meters, periods = "|".join(_METERS), "|".join(_PERIODS)
        match = re.fullmatch(rf"({meters})/({periods})=(?:(none)|(\d*):(\d*))", str(value))
        if match is None or (match[3] is None and not (match[4] or match[5])):
            form = f"{meters} / {periods} = SOFT:HARD, of which one may be left out, or none"
            self.fail(f"{value!r} is not of the form {form}.", param, ctx)
        soft, hard = (int(number) if number else None for number in (match[4], match[5]))
        return Budget(_METERS[match[1]], _PERIODS[match[2]], soft, hard)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    if match is None:
        raise ValueError(text)
    return int(float(match[1]) * _UNITS[match[2].upper()]) if match[2] else int(match[1])


_LIMITS: Mapping[str, tuple[Callable[[str], float], str]] = {
    "accelerators": (float, "GPUs, or CPUs where jobs have no GPUs, that its jobs may hold for sure."),
    "borrowing_limit": (float, "So many more it may borrow in its cohort; any number with `none`."),
    "lending_limit": (float, "So many of its own it lends to its cohort while unused; all with `none`."),
    "running_jobs": (int, "Jobs that run at once; more wait."),
    "open_jobs": (int, "Jobs that have not ended; more are refused."),
    "dataset_bytes": (_bytes, "Bytes of its datasets, such as 20GiB."),
    "artifact_bytes": (_bytes, "Bytes of its adapters, exports and kept checkpoints, such as 1TiB."),
    "deployed_adapters": (int, "Adapters that are deployed at once."),
    "requests_per_minute": (int, "Calls of models a minute."),
    "tokens_per_minute": (int, "Tokens a minute, of prompts and answers together."),
    "max_priority": (int, "The highest priority of its jobs, -100 to 100; 0 with `none`."),
}
_BUDGET = (
    "A limit over a period, such as accelerator-seconds/month=80000:100000; either may be left out. May be repeated."
)


def quota_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each limit; `none` lifts one."""
    function = click.option("--budget", "budgets", type=BudgetChange(), multiple=True, help=_BUDGET)(function)
    for name, (read, text) in reversed(list(_LIMITS.items())):
        function = click.option(f"--{name.replace('_', '-')}", name, type=Limit(read), help=text)(function)
    return function


def changed_quota(before: Quota, options: Mapping[str, Any]) -> Quota | None:
    """The quota with what the options say; None where they say nothing. Other options are left alone."""
    limits = {name: options[name] for name in _LIMITS if options.get(name) is not None}
    budgets: tuple[Budget, ...] = options.get("budgets", ())
    if not limits and not budgets:
        return None
    kept = {(budget.meter, budget.period): budget for budget in before.budgets}
    for budget in budgets:
        kept[budget.meter, budget.period] = budget
    set_ = {name: None if value == _NONE else value for name, value in limits.items()}
    left = tuple(budget for budget in kept.values() if (budget.soft_limit, budget.hard_limit) != (None, None))
    return replace(before, budgets=left, **set_)
