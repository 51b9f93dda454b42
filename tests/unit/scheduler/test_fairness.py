"""Whose turn is next, and that service converges to the weights."""

import random
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.policy_world import START, World

from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.past_use import PastUse
from trellis.server.scheduler.policy import decide
from trellis.server.scheduler.snapshot import Alone, QueuedJob, SchedulerOptions, Snapshot, TenantShare


def queued(name: str, cpus: float = 1, gpus: float = 1, priority: int = 0) -> QueuedJob:
    made = START + timedelta(seconds=float(name[1:]) - 100)
    return QueuedJob(name, name[0], made, Alone(Resources(cpus, gpus)), priority=priority)


def admitted(jobs: list[QueuedJob], tenants: dict[str, TenantShare], gpus: float = 4) -> str:
    decisions = decide(Snapshot(tuple(jobs), (), Resources(32, gpus), 99, START, tenants=tenants))
    return " ".join(one.uid for one in decisions.admit)


def test_shares_are_filled_by_weight() -> None:
    jobs = [queued(f"a{n}") for n in range(8)] + [queued(f"b{n}") for n in range(8, 16)]
    assert admitted(jobs, {"b": TenantShare(weight=3.0)}) == "a0 b8 b9 b10"


def test_the_dominant_resource_counts() -> None:
    """A takes many CPUs, b takes GPUs: after one each, a has the lesser share (8 of 32 CPUs, 1 of 2 GPUs)."""
    jobs = [queued("a1", 8, 0), queued("a3", 8, 0), queued("b2", 1, 1), queued("b4", 1, 1)]
    decisions = decide(Snapshot(tuple(jobs), (), Resources(32, 2), 99, START))
    assert [one.uid for one in decisions.admit] == ["a1", "b2", "a3", "b4"]


def test_who_has_had_much_waits_for_who_has_not() -> None:
    half_life = SchedulerOptions().half_life_seconds
    jobs = [queued("a1"), queued("a2"), queued("b3"), queued("b4")]
    assert admitted(jobs, {"a": TenantShare(past_use=half_life)}, gpus=2) == "b3 b4"
    assert admitted(jobs, {"a": TenantShare(past_use=1.0)}, gpus=2) == "b3 a1"


def test_priorities_and_soft_budgets_go_before_shares() -> None:
    over = TenantShare(over_soft_budget=True)
    jobs = [queued("a1"), queued("b2"), queued("a3", priority=1), queued("a4", priority=7), queued("b5", priority=-1)]
    assert admitted(jobs, {"a": over}, gpus=5) == "a4 a3 b2 b5 a1"


def test_inside_a_tenant_the_priority_goes_before_the_age() -> None:
    jobs = [queued("a1", priority=-5), queued("a2"), queued("b3"), queued("a4", priority=-1)]
    assert admitted(jobs, {}, gpus=3) == "a2 b3 a4"


@pytest.mark.parametrize("seed", [1, 2])
def test_under_saturation_service_converges_to_the_weights(seed: int) -> None:
    """Three tenants with jobs of all sizes, always more than run; each has its part of the time of all GPUs."""
    rng = random.Random(seed)
    weights = {"a": 1.0, "b": 2.0, "c": 5.0}
    policy = SchedulerOptions(half_life_seconds=400.0, default_job_seconds=22.0)
    world = World(Resources(64, 16), {t: TenantShare(weight=w) for t, w in weights.items()}, policy=policy)
    past, service, made = PastUse(policy.half_life_seconds, {}), Counter[str](), 0
    for second in range(1600):
        for tenant in weights:
            while sum(job.tenant == tenant for job in world.queued.values()) < 8:
                work = Alone(Resources(1, rng.choice([1, 1, 2, 4])))
                takes = rng.randint(5, 40)
                world.submit(QueuedJob(f"q{made:05}", tenant, world.now, work, seconds=float(takes)), takes)
                made += 1
        for tenant in weights:
            past.hold(tenant, world.used(tenant) / 16 - past.share(tenant), second)
            world.tenants[tenant] = replace(world.tenants[tenant], past_use=past.of(tenant, second))
        world.step()
        if second >= 200:
            service.update({tenant: int(world.used(tenant)) for tenant in weights})
    whole = sum(service.values())
    for tenant, weight in weights.items():
        assert service[tenant] / whole == pytest.approx(weight / 8, rel=0.05)
    assert whole / (16 * 1400) > 0.9, "and hardly a GPU is idle"
