"""Datasets, versions, uploads and reports."""

import asyncio
from dataclasses import replace

import pytest
from tests.contract.store import samples

from trellis.errors import AlreadyExists, NotFound
from trellis.server.app.ports import UnitOfWork, UnitOfWorkFactory
from trellis.server.domain.dataset import Report, ReportState, Upload, UploadPart, VersionState
from trellis.server.domain.tuning_job import JobState

UPLOAD = Upload("acme", "faq", "b" * 64, 100, samples.NOW)
KEY = (UPLOAD.tenant, UPLOAD.dataset_id, UPLOAD.sha256)


async def test_a_dataset_comes_back(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    async with units() as unit:
        assert await unit.datasets.get("acme", "faq") == samples.dataset()
        assert await unit.datasets.get("acme", "faq", for_update=True) == samples.dataset()
        assert await unit.datasets.get("other", "faq") is None
        with pytest.raises(AlreadyExists):
            await unit.datasets.add(samples.dataset())


async def test_a_dataset_is_saved(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    changed = replace(samples.dataset(), latest_sha256=samples.SHA, update_time=samples.at(9), revision=2)
    async with units() as unit:
        await unit.datasets.save(changed)
        assert await unit.datasets.get("acme", "faq") == changed
        with pytest.raises(NotFound):
            await unit.datasets.save(samples.dataset("gone"))


async def test_datasets_of_a_tenant_are_listed_oldest_first(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    async with units() as unit:
        await unit.tenants.add(samples.tenant("other"))
        await unit.datasets.add(samples.dataset("theirs", of="other"))
        for number in range(4):
            await unit.datasets.add(samples.dataset(f"d{number}", seconds=-number - 1))
        first = await unit.datasets.list("acme", 3, None)
        second = await unit.datasets.list("acme", 3, first.next_cursor)
    assert [d.dataset_id for d in [*first.items, *second.items]] == ["d3", "d2", "d1", "d0", "faq"]


async def test_a_version_is_added_once(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    async with units() as unit:
        assert not await unit.datasets.add_version(replace(samples.version(), filename="other"))
        assert await unit.datasets.get_version("acme", "faq", samples.SHA) == samples.version()
        assert await unit.datasets.get_version("acme", "faq", "b" * 64) is None


async def test_a_version_is_saved(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    ready = replace(samples.version(), state=VersionState.READY, kind="chat", line_count=2**40, summary="fine")
    async with units() as unit:
        await unit.datasets.save_version(ready)
        assert await unit.datasets.get_version("acme", "faq", samples.SHA) == ready
        with pytest.raises(NotFound):
            await unit.datasets.save_version(samples.version("c" * 64))


async def test_versions_are_listed_newest_first(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    hashes = [f"{number:064x}" for number in range(4)]
    async with units() as unit:
        for seconds, sha256 in enumerate(hashes, 1):
            await unit.datasets.add_version(samples.version(sha256, seconds=seconds))
        first = await unit.datasets.list_versions("acme", "faq", 2, None)
        second = await unit.datasets.list_versions("acme", "faq", 10, first.next_cursor)
    assert [v.sha256 for v in [*first.items, *second.items]] == [*reversed(hashes), samples.SHA]


async def test_users_are_jobs_that_go_on(units: UnitOfWorkFactory) -> None:
    other = samples.spec("faq-2", validation_dataset=samples.spec("faq").training_dataset)
    await samples.seed(
        units,
        samples.job(1),
        samples.job(2, state=JobState.FAILED),
        samples.job(3, spec=samples.spec("faq-2")),
        samples.job(4, spec=other),
    )
    async with units() as unit:
        assert sorted(await unit.datasets.users("acme", "faq")) == [
            "tenants/acme/tuningJobs/job-1",
            "tenants/acme/tuningJobs/job-4",
        ]
        assert await unit.datasets.users("acme", "fa") == []


async def test_parts_follow_each_other(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    parts = (UploadPart(0, 40, "p0"), UploadPart(40, 60, "p1"))
    async with units() as unit:
        datasets = unit.datasets
        assert await datasets.get_upload(*KEY) is None
        await datasets.start_upload(UPLOAD)
        await datasets.start_upload(replace(UPLOAD, update_time=samples.at(1)))
        assert await datasets.get_upload(*KEY) == UPLOAD
        assert not await datasets.add_part(UPLOAD, parts[1], samples.at(2))
        assert await datasets.add_part(UPLOAD, parts[0], samples.at(3))
        assert not await datasets.add_part(UPLOAD, parts[0], samples.at(4))
        assert await datasets.add_part(UPLOAD, parts[1], samples.at(5))
        assert await datasets.get_upload(*KEY) == replace(UPLOAD, parts=parts, update_time=samples.at(5))
        await datasets.delete_upload(*KEY)
        assert await datasets.get_upload(*KEY) is None
        assert not await datasets.add_part(UPLOAD, UploadPart(100, 1, "p2"), samples.at(6))


async def test_of_two_streams_of_one_file_one_wins_each_part(
    units: UnitOfWorkFactory, other_units: UnitOfWorkFactory
) -> None:
    await samples.seed(units)
    async with units() as unit:
        await unit.datasets.start_upload(UPLOAD)
        await unit.commit()

    async def add(factory: UnitOfWorkFactory, key: str) -> bool:
        async with factory() as unit:
            added = await unit.datasets.add_part(UPLOAD, UploadPart(0, 10, key), samples.NOW)
            await unit.commit()
            return added

    added = await asyncio.gather(*(add(factory, str(n)) for n, factory in enumerate([units, other_units] * 3)))
    assert sorted(added) == [False] * 5 + [True]
    async with units(write=False) as unit:
        upload = await unit.datasets.get_upload(*KEY)
    assert upload is not None
    assert [part.key for part in upload.parts] == [str(added.index(True))]


async def test_stale_uploads_are_found(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    uploads = [replace(UPLOAD, sha256=f"{n:064x}", update_time=samples.at(n)) for n in range(4)]
    async with units() as unit:
        for upload in uploads:
            await unit.datasets.start_upload(upload)
        assert await unit.datasets.stale_uploads(samples.at(2), 10) == uploads[:2]
        assert await unit.datasets.stale_uploads(samples.at(3), 1) == uploads[:1]


async def test_deleting_a_dataset_takes_what_is_its_own(units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job())
    async with units() as unit:
        await unit.datasets.start_upload(UPLOAD)
        await unit.datasets.add_part(UPLOAD, UploadPart(0, 1, "p"), samples.NOW)
        await unit.datasets.add_report(samples.report())
        await unit.datasets.delete("acme", "faq")
        assert await unit.datasets.get("acme", "faq") is None
        assert await unit.datasets.get_version("acme", "faq", samples.SHA) is None
        assert await unit.datasets.get_upload(*KEY) is None
        assert await _report(unit) is None
        assert await unit.jobs.get("acme", "job-1") is not None


async def test_a_version_is_read_with_its_report_in_one_go(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    other = "c" * 64
    async with units() as unit:
        assert await unit.datasets.read_on("acme", "faq", "0" * 64, "baseModels/tiny") is None
        assert await unit.datasets.read_on("acme", "faq", None, "baseModels/tiny") is None, "it has no newest one"
        for sha256 in (samples.SHA, other):
            await unit.datasets.add_version(samples.version(sha256))
        await unit.datasets.add_report(samples.report(other))
        await unit.datasets.save(replace(samples.dataset(), latest_sha256=other))
        with_report = samples.version(other), samples.report(other)
        assert await unit.datasets.read_on("acme", "faq", None, "baseModels/tiny") == with_report
        assert await unit.datasets.read_on("acme", "faq", other, "baseModels/tiny") == with_report
        assert await unit.datasets.read_on("acme", "faq", other, "baseModels/else") == (with_report[0], None)
        assert await unit.datasets.read_on("acme", "faq", samples.SHA, "baseModels/tiny") == (samples.version(), None)
        assert await unit.datasets.read_on("other", "faq", None, "baseModels/tiny") is None


async def _report(unit: UnitOfWork) -> Report | None:
    return await unit.datasets.get_report("acme", "faq", samples.SHA, "baseModels/tiny")


async def test_a_report_is_made_once(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    async with units() as unit:
        assert await unit.datasets.add_report(samples.report())
        assert not await unit.datasets.add_report(samples.report(seconds=5))
        assert await _report(unit) == samples.report()
        assert await unit.datasets.claim_report(samples.claim("one"), samples.NOW) == samples.report()
        assert await unit.datasets.claim_report(samples.claim("two"), samples.NOW) is None
        done = replace(samples.report(), state=ReportState.DONE, key="r", valid=True, trainable_token_count=9)
        assert not await unit.datasets.save_report(done, samples.claim("two"))
        assert await unit.datasets.save_report(done, samples.claim("one"))
        assert not await unit.datasets.save_report(done, samples.claim("one"))
        assert await _report(unit) == done
        assert await unit.datasets.claim_report(samples.claim("three"), samples.at(1000)) is None


async def test_only_a_report_that_could_not_be_made_is_asked_for_again(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    async with units() as unit:
        await unit.datasets.add_report(samples.report())
        assert not await unit.datasets.restart_report(samples.report(seconds=5))
        await unit.datasets.claim_report(samples.claim("one"), samples.NOW)
        failed = replace(samples.report(), state=ReportState.FAILED, summary="The hub is away.")
        assert await unit.datasets.save_report(failed, samples.claim("one"))
        assert await unit.datasets.restart_report(samples.report(seconds=5))
        assert await _report(unit) == samples.report(seconds=5)
        assert await unit.datasets.claim_report(samples.claim("two"), samples.at(6)) == samples.report(seconds=5)


async def test_a_report_whose_maker_died_is_taken_over(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    async with units() as unit:
        await unit.datasets.add_report(samples.report())
        await unit.datasets.claim_report(samples.claim("dead", seconds=60), samples.NOW)
        assert await unit.datasets.claim_report(samples.claim("new", 99), samples.at(59)) is None
        assert await unit.datasets.claim_report(samples.claim("new", 120), samples.at(60)) == samples.report()
        assert not await unit.datasets.save_report(samples.report(), samples.claim("dead"))
        assert await unit.datasets.save_report(samples.report(), samples.claim("new"))


async def test_reports_are_claimed_oldest_first_by_one_each(
    units: UnitOfWorkFactory, other_units: UnitOfWorkFactory
) -> None:
    await samples.seed(units)
    bases = [f"baseModels/b{number}" for number in range(4)]
    async with units() as unit:
        for number, base in enumerate(bases):
            await unit.datasets.add_report(samples.report(base_model=base, seconds=-number))
        await unit.commit()

    async def claim(factory: UnitOfWorkFactory, token: str) -> str:
        async with factory() as unit:
            report = await unit.datasets.claim_report(samples.claim(token), samples.NOW)
            await unit.commit()
            assert report is not None
            return report.base_model

    claimed = await asyncio.gather(claim(units, "a"), claim(other_units, "b"))
    assert sorted(claimed) == ["baseModels/b2", "baseModels/b3"]


async def test_a_claim_on_a_report_is_renewed_while_it_is_held(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    async with units() as unit:
        await unit.datasets.add_report(samples.report())
        held = samples.claim("one", 10)
        assert await unit.datasets.claim_report(held, samples.NOW)
        assert await unit.datasets.renew_report(samples.report(), held, samples.claim("one", 20))
        assert await unit.datasets.claim_report(samples.claim("two", 40), samples.at(15)) is None
        assert await unit.datasets.claim_report(samples.claim("two", 40), samples.at(20))
        assert not await unit.datasets.renew_report(samples.report(), held, samples.claim("one", 30))
        assert await unit.datasets.save_report(samples.report(), samples.claim("two"))
