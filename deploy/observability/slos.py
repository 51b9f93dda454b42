"""What the platform promises (docs/slos.md), how that is measured, and when a month's budget of failures runs out too fast."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
BURN: Final = "trellis:slo_burn:ratio"
_BROKEN: Final = 'status=~"UNKNOWN|INTERNAL|UNAVAILABLE|DATA_LOSS|DEADLINE_EXCEEDED"'
_FRESH: Final = "trellis:usage_fresh:bool"
_FAST: Final = (("1h", "5m", 14.4), ("6h", "30m", 6.0))
"""A long and a short window, and how fast the budget burns in both: 2 % of it in an hour, 5 % in six."""
_SLOW: Final = (("1d", "2h", 3.0), ("3d", "6h", 1.0))


@dataclass(frozen=True, slots=True)
class Slo:
    """An objective over 30 days."""

    name: str
    alert: str
    objective: float
    said: str
    failed: str
    """PromQL of the share of what failed, with the window written as WINDOW."""
    pages: bool = False
    """Whether somebody is woken when it burns fast."""

    def burn(self, window: str) -> dict[str, Any]:
        """The rule that records how many times as fast as allowed the budget is used up."""
        expr = f"({self.failed.replace('WINDOW', window)}) / {1 - self.objective:.6g}"
        return {"record": BURN, "expr": expr, "labels": {"slo": self.name, "window": window}}

    def alerts(self) -> Iterator[tuple[str, str, str]]:
        """Severity, expression and how long it must hold."""
        if self.pages:
            yield "critical", self._faster_than(_FAST), "2m"
        yield "warning", self._faster_than(_SLOW), "15m"

    def _faster_than(self, pairs: tuple[tuple[str, str, float], ...]) -> str:
        either = " or ".join(
            f"({self._series(long)} > {factor:g} and on (namespace) {self._series(short)} > {factor:g})"
            for long, short, factor in pairs
        )
        return f"max by (namespace) ({either})"  # one alert, whichever windows it is

    def _series(self, window: str) -> str:
        return f'{BURN}{{slo="{self.name}", window="{window}"}}'


def _share(bad: str, all_of_them: str) -> str:
    """What is not there counts as none; of nothing there is no share."""
    total = f"sum by (namespace) (rate({all_of_them}[WINDOW]))"
    return f"(sum by (namespace) (rate({bad}[WINDOW])) or 0 * {total}) / ({total} > 0)"


def _slower(histogram: str, bucket: str) -> str:
    """The share of what took longer than a bucket's bound."""
    total = f"sum by (namespace) (rate({histogram}_count[WINDOW]))"
    return f'1 - sum by (namespace) (rate({histogram}_bucket{{le="{bucket}"}}[WINDOW])) / ({total} > 0)'


_MODELS: Final = 'method=~".*InferenceService/.*"'
_OTHERS: Final = 'method!~".*InferenceService/.*"'
SLOS: Final = (
    Slo("api-availability", "TrellisApiBurn", 0.999, "calls of the API do not fail by the platform's fault",
        _share(f"trellis_rpc_calls_total{{{_OTHERS}, {_BROKEN}}}", f"trellis_rpc_calls_total{{{_OTHERS}}}"), pages=True),
    Slo("model-calls", "TrellisModelCallsBurn", 0.995, "calls of models do not fail by the platform's fault",
        _share(f"trellis_rpc_calls_total{{{_MODELS}, {_BROKEN}}}", f"trellis_rpc_calls_total{{{_MODELS}}}"), pages=True),
    Slo("first-token", "TrellisFirstTokenBurn", 0.95, "first tokens come within 2.5 s",
        _slower("ray_trellis_engine_first_token_seconds", "2.5")),
    Slo("queue-wait", "TrellisQueueWaitBurn", 0.9, "jobs are admitted within 15 minutes",
        _slower("trellis_job_queue_wait_seconds", "900.0")),
    Slo("start-foretold", "TrellisStartsLateBurn", 0.9, "jobs start no later than was foretold when they began to wait",
        _share('trellis_job_start_error_seconds_count{against="after"}', "trellis_job_start_error_seconds_count")),
    Slo("jobs-kept", "TrellisJobsLostBurn", 0.99, "jobs that end do not fail by the platform's fault",
        _share('trellis_jobs_ended_total{state="FAILED", cause="INFRASTRUCTURE"}', 'trellis_jobs_ended_total{state!="CANCELLED"}')),
    Slo("usage-fresh", "TrellisUsageStaleBurn", 0.99, "stored bytes are metered to within 10 minutes",
        f"1 - avg_over_time({_FRESH}[WINDOW])"),
)  # fmt: skip

_METERED: Final = (
    'max by (namespace) (trellis_control_loop_done_timestamp_seconds{loop="meter_storage"}'
    ' and on (namespace, instance) trellis_lease_held{loop="meter_storage"} == 1)'
)


def recordings() -> list[dict[str, Any]]:
    """The rules that record, by group."""
    fresh = f'(time() - {_METERED} < bool 600) or 0 * max by (namespace) (up{{job="trellis"}})'
    groups: list[dict[str, Any]] = [
        {"name": "trellis-freshness", "interval": "30s", "rules": [{"record": _FRESH, "expr": fresh}]}
    ]
    for slo in SLOS:
        rules = [slo.burn(window) for window in WINDOWS]
        groups.append({"name": f"trellis-slo-{slo.name}", "interval": "30s", "rules": rules})
    return groups
