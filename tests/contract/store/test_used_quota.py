"""What tenants use of their quotas, and their token buckets."""

import asyncio
from dataclasses import replace

from tests.contract.store import samples

from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.app.quota_ports import Kept
from trellis.server.domain.adapter import Deployment
from trellis.server.domain.dataset import Upload
from trellis.server.domain.export import Export, ExportFile, ExportFormat, ExportState
from trellis.server.domain.quota import Quota
from trellis.server.domain.rate import Bucket, RateKind
from trellis.server.domain.tuning_job import Checkpoint, Estimate, JobState

STATES = (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED, JobState.SUCCEEDED, JobState.CANCELLED)


def export(number: int, state: ExportState, *files: int) -> Export:
    named = tuple(ExportFile(f"{at}.safetensors", size, samples.SHA) for at, size in enumerate(files))
    plain = Export(
        "acme", f"e{number}", f"e{number}", "", "s", "k", "baseModels/tiny", ExportFormat.SAFETENSORS, state, "k", "",
        samples.NOW,
    )  # fmt: skip
    return replace(plain, files=named)


async def test_what_is_there_is_counted(units: UnitOfWorkFactory) -> None:
    estimate = Estimate(accelerators=1.5, seconds=60, accelerator_seconds=90, trained_tokens=7)
    jobs = [samples.job(number, state=state, estimate=estimate) for number, state in enumerate(STATES, 1)]
    await samples.seed(units, *jobs)
    async with units() as unit:
        await unit.tenants.add(samples.tenant("globex"))
        await unit.jobs.add(samples.job(1, "globex"))
        await unit.datasets.start_upload(Upload("acme", "faq", "b" * 64, 100, samples.NOW))
        for number, deployment in enumerate(Deployment):
            await unit.adapters.add(samples.adapter(number, deployment=deployment))
        await unit.adapters.add(samples.adapter(1, "globex", deployment=Deployment.DEPLOYED))
        await unit.jobs.add_checkpoint("uid-acme-4", Checkpoint(1, 1, "k", 10_000, samples.NOW))
        await unit.jobs.add_checkpoint("uid-globex-1", Checkpoint(1, 1, "k", 10_000, samples.NOW))
        await unit.exports.add(export(1, ExportState.SUCCEEDED, 20_000, 5))
        await unit.exports.add(export(2, ExportState.PENDING))
        await unit.exports.add(export(3, ExportState.RUNNING))
        await unit.exports.add(export(4, ExportState.FAILED))
        await unit.commit()
    async with units(write=False) as unit:
        used = unit.used
        assert [await used.open_jobs("acme", most) for most in (1, 3, 100)] == [1, 3, 3]
        assert (await used.running_jobs("acme", 100), await used.running_jobs("globex", 100)) == (1, 0)
        assert await used.accelerators("acme") == 1.5
        assert [await used.deployed_adapters("acme", most) for most in (2, 100)] == [2, 3]
        assert await used.dataset_bytes("acme") == Kept(5 * 2**30, 100)
        parameters = samples.base().parameter_count
        assert await used.artifact_bytes("acme") == Kept(4 * 1024 + 10_000 + 20_005, 2 * 2 * parameters)
        assert await used.artifact_bytes("nobody") == await used.dataset_bytes("nobody") == Kept(0, 0)


async def test_a_cohort_has_its_members(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        await unit.tenants.add(replace(samples.tenant("acme"), cohort="research", quota=Quota(accelerators=2.0)))
        await unit.tenants.add(replace(samples.tenant("globex"), cohort="research"))
        await unit.tenants.add(samples.tenant("initech"))
        await unit.commit()
    async with units(write=False) as unit:
        assert await unit.used.cohort("research") == {"acme": Quota(accelerators=2.0), "globex": Quota()}


async def test_buckets_are_taken_from_one_after_the_other(
    units: UnitOfWorkFactory, other_units: UnitOfWorkFactory
) -> None:
    async with units() as unit:
        await unit.tenants.add(samples.tenant())
        await unit.commit()
    full = {RateKind.REQUESTS: Bucket(100.0, 1.5), RateKind.TOKENS: Bucket(1000.0, 1.5)}

    async def take(from_: UnitOfWorkFactory) -> None:
        async with from_() as unit:
            buckets = await unit.rates.lock("acme", full)
            buckets[RateKind.REQUESTS] = buckets[RateKind.REQUESTS].less(1)
            await unit.rates.put("acme", buckets)
            await unit.commit()

    await asyncio.gather(*(take(each) for each in (units, other_units) for _ in range(8)))
    async with units(write=False) as unit:
        assert await unit.rates.get("acme") == {**full, RateKind.REQUESTS: Bucket(84.0, 1.5)}
        assert await unit.rates.get("nobody") == {}
