"""A report for people."""

from collections.abc import Sequence

from trellis.server.simulator.report import SimulationReport, Spread, TenantReport

_TENANTS = 12
"""So many lines at most; JSON has all."""


def table_of(report: SimulationReport) -> str:
    """The lines of a report."""
    rows = [
        ("jobs", f"{report.jobs} of {report.tenants} tenants on {report.accelerators:g} accelerators"),
        ("time", f"{report.hours:.1f} h from the first submit to the last end"),
        ("utilisation", f"{report.utilisation:.1%} over all, {_part(report.busy_utilisation)} while jobs waited"),
        ("wait", _spans(report.wait)),
        ("slowdown", _numbers(report.slowdown)),
        (
            "fairness error",
            f"{_part(report.fairness_error)} on the mean, {_part(report.worst_fairness_error)} at worst",
        ),
        ("preemptions", _preemptions(report)),
        ("backfilled", f"{report.overtakers} jobs started before an older one of their tenant"),
        ("starvation", _starvation(report)),
        (
            "decisions",
            f"{report.decisions}, {_milliseconds(report.decision)}; at most {report.most_waiting} jobs waited",
        ),
    ]
    width = max(len(name) for name, _ in rows) + 2
    lines = [f"{name:<{width}}{said}" for name, said in rows]
    return "\n".join([*lines, "", *_tenant_lines(report.by_tenant)])


def _tenant_lines(tenants: Sequence[TenantReport]) -> list[str]:
    shown = sorted(tenants, key=lambda one: -one.accelerator_hours)[:_TENANTS]
    head = ("TENANT", "WEIGHT", "JOBS", "ACCELERATOR-HOURS", "SHARE/DUE", "WAIT P50", "WAIT P95", "SLOWDOWN P95")
    rows = [head] + [
        (
            *(one.tenant, f"{one.weight:g}", str(one.jobs), f"{one.accelerator_hours:.1f}"),
            "-" if one.share_over_due is None else f"{one.share_over_due:.2f}",
            *((span(one.wait.p50), span(one.wait.p95)) if one.wait else ("-", "-")),
            f"{one.slowdown.p95:.2f}" if one.slowdown else "-",
        )
        for one in shown
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "   ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    left = len(tenants) - len(shown)
    return [*lines, f"and {left} more tenants; --format json has them all"] if left else lines


def span(seconds: float) -> str:
    """Such as `4 m 10 s` or `2 h 5 m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} m {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} m"


def _spans(spread: Spread | None) -> str:
    if spread is None:
        return "nothing started"
    return f"p50 {span(spread.p50)}, p95 {span(spread.p95)}, p99 {span(spread.p99)}, at most {span(spread.max)}"


def _numbers(spread: Spread | None) -> str:
    if spread is None:
        return "nothing ended"
    return f"p50 {spread.p50:.2f}, p95 {spread.p95:.2f}, p99 {spread.p99:.2f}, at most {spread.max:.2f}"


def _milliseconds(spread: Spread | None) -> str:
    if spread is None:
        return "none was made"
    return f"p50 {1e3 * spread.p50:.1f} ms, p99 {1e3 * spread.p99:.1f} ms, at most {1e3 * spread.max:.1f} ms each"


def _part(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _preemptions(report: SimulationReport) -> str:
    if not report.preemptions:
        return "none"
    return (
        f"{report.preemptions} of {report.preempted_jobs} jobs, at most {report.most_preemptions} of one; "
        f"{report.lost_hours:.1f} accelerator-hours lost"
    )


def _starvation(report: SimulationReport) -> str:
    longest = f"the longest wait is {span(report.longest_wait)}, of {report.longest_waiter or 'no job'}"
    if report.unfinished:
        return f"{report.unfinished} JOBS NEVER ENDED; {longest}"
    refused = f"; {report.refused} were refused" if report.refused else ""
    return f"none, every job has ended{refused}; {longest}"
