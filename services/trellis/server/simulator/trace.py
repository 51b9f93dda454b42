"""A queue as JSON Lines: a line for the platform, one for each tenant, one for each job.

    {"kind": "platform", "accelerators": 1000}
    {"kind": "tenant", "tenant": "acme", "weight": 2.0, "cohort": "research", "accelerators": 16, "borrowing_limit": 8}
    {"kind": "job", "job": "j1", "tenant": "acme", "submit": 0.0, "accelerators": 4, "seconds": 3600.0, "estimate": 3000.0}
    {"kind": "job", "job": "j2", "tenant": "acme", "submit": 12.5, "base": "tiny", "rank": 8, "seconds": 60.0}

Times are in seconds, of submits since the beginning. A job has `accelerators` and runs alone, or a `base` and runs on a
shared trainer. What a line leaves out is as in the dataclasses below; what they don't have is refused.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from trellis.server.domain.quota import Quota
from trellis.server.scheduler.snapshot import TenantShare

_T = TypeVar("_T")


class TraceError(ValueError):
    """A file is no trace; `str()` says which line, and why."""


@dataclass(frozen=True, slots=True)
class TracePlatform:
    """What there is."""

    accelerators: float
    trainer_accelerators: float = 1.0
    """What a shared trainer holds."""
    trainer_jobs: int = 16
    """Jobs that it has at once."""
    tenant_running_limit: int = 1_000_000


@dataclass(frozen=True, slots=True)
class TraceTenant:
    """What a tenant may have; None does not bind."""

    tenant: str
    weight: float = 1.0
    cohort: str = ""
    accelerators: float | None = None
    borrowing_limit: float | None = None
    lending_limit: float | None = None
    running_jobs: int | None = None

    @property
    def share(self) -> TenantShare:
        """As the scheduler knows it."""
        quota = Quota(
            accelerators=self.accelerators,
            borrowing_limit=self.borrowing_limit,
            lending_limit=self.lending_limit,
            running_jobs=self.running_jobs,
        )
        return TenantShare(self.weight, quota, self.cohort)


@dataclass(frozen=True, slots=True)
class TraceJob:
    """A job, and how long it takes in truth."""

    job: str
    tenant: str
    submit: float
    seconds: float
    accelerators: float = 0.0
    base: str = ""
    rank: int = 16
    context_length: int = 1024
    estimate: float | None = None
    """How long it is expected to take; None for as long as it does."""
    priority: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for what can't be."""
        if bool(self.base) == bool(self.accelerators):
            raise ValueError("a job has either `accelerators` or a `base`")
        if self.seconds <= 0 or self.submit < 0 or self.accelerators < 0:
            raise ValueError("`seconds` must be above 0, `submit` and `accelerators` not below")


@dataclass(frozen=True, slots=True)
class Trace:
    """A queue over time."""

    platform: TracePlatform
    tenants: tuple[TraceTenant, ...]
    jobs: tuple[TraceJob, ...] = field(repr=False)
    """By their submit times."""


def read_trace(file: Path) -> Trace:
    """Read a file; raises TraceError."""
    with file.open(encoding="utf-8") as lines:
        return parse_trace(lines)


def parse_trace(lines: Iterable[str]) -> Trace:
    """A trace from its lines; raises TraceError."""
    platforms: list[TracePlatform] = []
    tenants: dict[str, TraceTenant] = {}
    jobs: dict[str, TraceJob] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        one = _parse(line, number)
        match one:
            case TracePlatform():
                platforms.append(one)
            case TraceTenant():
                tenants[one.tenant] = one
            case _:
                if one.job in jobs:
                    raise TraceError(f"Line {number}: there is a job {one.job} already.")
                jobs[one.job] = one
    if len(platforms) != 1:
        raise TraceError(f"A trace has one line of kind `platform`, and this has {len(platforms)}.")
    if not jobs:
        raise TraceError("A trace has at least one line of kind `job`, and this has none.")
    for job in jobs.values():
        tenants.setdefault(job.tenant, TraceTenant(job.tenant))
    in_order = sorted(jobs.values(), key=lambda job: (job.submit, job.job))
    return Trace(platforms[0], tuple(tenants[name] for name in sorted(tenants)), tuple(in_order))


def write_trace(trace: Trace, file: Path) -> None:
    """Write it, so that reading gives the same."""
    with file.open("w", encoding="utf-8") as out:
        out.writelines(line + "\n" for line in trace_lines(trace))


def trace_lines(trace: Trace) -> Iterator[str]:
    """The lines of the file."""
    yield _line("platform", trace.platform)
    for tenant in trace.tenants:
        yield _line("tenant", tenant)
    for job in trace.jobs:
        yield _line("job", job)


_KINDS: dict[str, Any] = {"platform": TracePlatform, "tenant": TraceTenant, "job": TraceJob}


def _parse(line: str, number: int) -> TracePlatform | TraceTenant | TraceJob:
    try:
        value = json.loads(line)
        kind = value.pop("kind", None) if isinstance(value, dict) else None
        if kind not in _KINDS:
            raise ValueError("its `kind` must be platform, tenant or job")
        found: TracePlatform | TraceTenant | TraceJob = _made(_KINDS[kind], value)
    except ValueError as error:
        raise TraceError(f"Line {number} is no line of a trace: {error}.") from error
    return found


def _made(cls: type[_T], value: dict[str, Any]) -> _T:
    known = {one.name: one for one in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(value.keys() - known.keys()):
        raise ValueError(f"it has no field `{unknown[0]}`; those there are: {', '.join(known)}")
    for name, given in value.items():
        if not isinstance(given, _TYPES[str(known[name].type)]) or isinstance(given, bool):
            raise ValueError(f"`{name}` can't be {json.dumps(given)}")  # noqa: TRY004  a file is wrong, not a caller
    try:
        return cls(**value)
    except TypeError as error:
        missing = str(error).rpartition(": ")[2]
        raise ValueError(f"it misses {missing}") from error


_NUMBER = (int, float)
_TYPES: dict[str, Any] = {
    "<class 'str'>": str,
    "<class 'int'>": int,
    "<class 'float'>": _NUMBER,
    "float | None": (*_NUMBER, type(None)),
    "int | None": (int, type(None)),
}


def _line(kind: str, value: Any) -> str:
    return json.dumps({"kind": kind} | {name: one for name, one in asdict(value).items() if one not in (None, "")})
