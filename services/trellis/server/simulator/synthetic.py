"""A made-up queue: a few hard-working tenants and many others, small jobs and gangs, good and bad estimates."""

import random
from dataclasses import dataclass, replace

from trellis.server.simulator.trace import Trace, TraceJob, TracePlatform, TraceTenant

_WEIGHTS = (1.0, 1.0, 2.0, 4.0)
_COHORTS = 4
_EVENNESS = 0.4
"""0 for tenants that have work by their weights alone, 1 for a few that have nearly all."""
_BASES = 5
_SIZES = {1: 40, 2: 20, 4: 16, 8: 14, 16: 7, 32: 3}
"""Accelerators of a job that runs alone, each so many times in a hundred."""
_LONGEST = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Mix:
    """What is made up."""

    jobs: int = 10_000
    tenants: int = 200
    accelerators: int = 1000
    seed: int = 1
    load: float = 1.2
    """Work that comes, over what the accelerators could do in the time in which it comes; above 1 the queue grows."""
    shared: float = 0.5
    """The part of the jobs that run on shared trainers."""
    median_seconds: float = 3600.0
    error: float = 0.5
    """The standard deviation of the logarithm of estimate over truth."""
    urgent: float = 0.02
    """The part of the jobs with priority 1."""
    quotas: bool = True
    """Whether tenants have nominal quotas by their weights, in four cohorts whose members lend and borrow."""


def synthetic_trace(mix: Mix) -> Trace:
    """The same for the same mix."""
    rng = random.Random(mix.seed)
    tenants = _tenants(mix)
    busy = [1 / (rank + 1) ** _EVENNESS for rank in range(len(tenants))]
    rng.shuffle(busy)
    busy = [part * tenant.weight for part, tenant in zip(busy, tenants, strict=True)]
    owners = rng.choices(tenants, busy, k=mix.jobs)
    most = {tenant.tenant: _most(mix, tenants, tenant) for tenant in tenants}
    jobs = [_job(mix, rng, number, owner, most[owner.tenant]) for number, owner in enumerate(owners)]
    platform = TracePlatform(float(mix.accelerators))
    seat = platform.trainer_accelerators / platform.trainer_jobs
    span = sum(job.seconds * (job.accelerators or seat) for job in jobs) / (mix.accelerators * mix.load)
    times = sorted(rng.uniform(0, span) for _ in jobs)
    made = tuple(replace(job, submit=round(at, 3)) for at, job in zip(times, jobs, strict=True))
    return Trace(platform, tuple(tenants), made)


def _tenants(mix: Mix) -> list[TraceTenant]:
    weights = [_WEIGHTS[number % len(_WEIGHTS)] for number in range(mix.tenants)]
    part = mix.accelerators / sum(weights)
    return [
        TraceTenant(
            f"tenant-{number:03}",
            weight,
            cohort=f"cohort-{number % _COHORTS}" if mix.quotas else "",
            accelerators=round(weight * part, 3) if mix.quotas else None,
        )
        for number, weight in enumerate(weights)
    ]


def _job(mix: Mix, rng: random.Random, number: int, owner: TraceTenant, most: float) -> TraceJob:
    """All of it but when it is submitted."""
    seconds = min(_LONGEST, rng.lognormvariate(0, 1) * mix.median_seconds)
    job = TraceJob(
        job=f"job-{number:06}",
        tenant=owner.tenant,
        submit=0.0,
        seconds=round(seconds, 3),
        accelerators=1.0,
        estimate=round(seconds * rng.lognormvariate(0, mix.error), 3),
        priority=int(rng.random() < mix.urgent),
    )
    if rng.random() < mix.shared:
        return replace(job, accelerators=0.0, base=f"base-{rng.randrange(_BASES)}", rank=rng.choice((8, 16, 32)))
    sizes = {size: often for size, often in _SIZES.items() if size <= most} or {1: 1}
    return replace(job, accelerators=float(rng.choices(list(sizes), list(sizes.values()))[0]))


def _most(mix: Mix, tenants: list[TraceTenant], owner: TraceTenant) -> float:
    """The largest job: half of what its cohort has."""
    if owner.accelerators is None:
        return mix.accelerators / 2
    return sum(tenant.accelerators or 0.0 for tenant in tenants if tenant.cohort == owner.cohort) / 2
