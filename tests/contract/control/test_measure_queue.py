"""The queue's figures by tenant are bounded, and don't outlive the jobs."""

from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY
from tests.contract.control.platform import Platform
from tests.contract.store import samples

from trellis.server.control import measure_queue
from trellis.server.control.measure_queue import OTHER, MeasureQueue
from trellis.server.domain.tuning_job import JobState


def figures(name: str) -> dict[str, float]:
    (family,) = (found for found in REGISTRY.collect() if found.name == name)
    return {sample.labels["tenant"]: sample.value for sample in family.samples}


async def test_the_tenants_with_most_jobs_have_names(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_queue, "_NAMED", 2)
    now = platform.clock.now()
    async with platform.units() as unit:
        for number, tenant in enumerate(("acme", "busy", "calm", "dull")):
            if tenant != "acme":
                await unit.tenants.add(replace(samples.tenant(), tenant_id=tenant))
            for count in range(4 - number):
                at = now - timedelta(seconds=100 * (count + 1))
                job = samples.job(tenant=tenant, job_id=f"j{count}", uid=f"{tenant}-{count}")
                await unit.jobs.add(replace(job, state=JobState.QUEUED, create_time=at))
        await unit.commit()
    step = MeasureQueue(platform.control())
    await step.once()
    assert figures("trellis_queue_jobs") == {"acme": 4, "busy": 3, OTHER: 3}
    assert figures("trellis_queue_oldest_seconds") == {"acme": 400, "busy": 300, OTHER: 200}
    async with platform.units() as unit:
        for count in range(3):
            held = await unit.jobs.get("busy", f"j{count}", for_update=True)
            assert held is not None
            await unit.jobs.save(held.moved(JobState.CANCELLED, now))
        await unit.commit()
    await step.once()
    assert figures("trellis_queue_jobs") == {"acme": 4, "calm": 2, OTHER: 1}
