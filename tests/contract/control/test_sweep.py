"""Objects that no row names are deleted, and no others."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.contract.control.platform import UID, Platform
from tests.contract.store import samples

from trellis.objects import ObjectStoreUnavailableError
from trellis.server.app import keys
from trellis.server.control.sweep import SweepObjects
from trellis.server.domain.dataset import Upload
from trellis.server.domain.tuning_job import Checkpoint

SHA = samples.SHA


def put(platform: Platform, *folders: str) -> set[str]:
    found = {f"{folder}/a" for folder in folders} | {f"{folder}/deep/b" for folder in folders}
    for key in found:
        platform.store.put_bytes(key, b"x")
    return found


def left(platform: Platform) -> set[str]:
    return {item.key for item in platform.store.list("tenants")}


async def test_what_nothing_names_is_deleted_at_the_second_look(platform: Platform) -> None:
    orphans = put(
        platform,
        keys.job_prefix("acme", "uid-gone"),
        keys.attempt_adapter_prefix("acme", "uid-gone", 2),
        keys.upload_prefix("acme", "faq", "b" * 64),
        f"{keys.dataset_prefix('acme', 'faq')}/{'c' * 64}",
    )
    step = SweepObjects(platform.control())
    await step.once()
    assert left(platform) == orphans
    await step.once()
    assert left(platform) == set()


async def test_what_a_row_names_stays(platform: Platform) -> None:
    await platform.add_jobs(samples.alone())
    await platform.server().admit.once()
    adapter_folder = keys.attempt_adapter_prefix("acme", "uid-old", 3)
    async with platform.units() as unit:
        await unit.adapters.add(samples.adapter(key=adapter_folder))
        await unit.datasets.start_upload(Upload("acme", "faq", "b" * 64, 9, platform.clock.now()))
        await unit.commit()
    named = put(
        platform,
        keys.job_prefix("acme", UID),
        keys.attempt_adapter_prefix("acme", UID, 1),
        adapter_folder,
        keys.import_prefix("acme", "i1"),
        keys.upload_prefix("acme", "faq", "b" * 64),
        f"{keys.dataset_prefix('acme', 'faq')}/{SHA}",
        "tenants/acme/strange/one",
        "tenants/other/jobs/uid-gone",
    )
    step = SweepObjects(platform.control())
    await step.once()
    await step.once()
    assert left(platform) == named


async def test_an_import_that_nobody_recorded_is_deleted_after_a_day(platform: Platform) -> None:
    orphans = put(platform, keys.import_prefix("acme", "i1"))
    step = SweepObjects(platform.control())
    for hours in (0, 12, 11):
        platform.clock.pass_seconds(hours * 3600)
        await step.once()
    assert left(platform) == orphans
    platform.clock.pass_seconds(2 * 3600)
    await step.once()
    assert left(platform) == set()


async def test_what_a_killed_writer_has_left_is_discarded_after_a_day(platform: Platform) -> None:
    folder = Path(platform.store.url) / keys.job_prefix("acme", "uid-1")
    folder.mkdir(parents=True)
    scratch = folder / f".weights.{'0' * 32}"
    scratch.write_bytes(b"half")
    step = SweepObjects(platform.control())
    written = platform.clock.now().timestamp()
    os.utime(scratch, (written, written))
    platform.clock.pass_seconds(23 * 3600)
    await step.once()
    assert scratch.exists()
    platform.clock.pass_seconds(2 * 3600)
    await step.once()
    assert not scratch.exists()


async def test_a_store_that_tells_nothing_of_unfinished_ones_stops_no_sweep(platform: Platform) -> None:
    orphans = put(platform, keys.job_prefix("acme", "uid-gone"))
    context = platform.control()

    class Silent:
        url = context.objects.url

        async def run(self, method: str, *arguments: Any) -> Any:
            if method == "discard_unfinished":
                raise ObjectStoreUnavailableError("It says nothing.")
            return await context.objects.run(method, *arguments)

    step = SweepObjects(replace(context, objects=Silent()))
    await step.once()
    assert left(platform) == orphans
    await step.once()
    assert left(platform) == set()


async def test_an_object_that_was_there_a_moment_before_its_row_stays(platform: Platform) -> None:
    named = put(platform, keys.job_prefix("acme", UID))
    step = SweepObjects(platform.control())
    await step.once()
    await platform.add_jobs(samples.alone())
    await step.once()
    assert left(platform) == named


async def test_the_adapter_of_an_attempt_that_ended_badly_is_deleted(platform: Platform) -> None:
    await platform.add_jobs(samples.alone())
    server = platform.server()
    await server.admit.once()
    put(platform, keys.attempt_adapter_prefix("acme", UID, 1))
    await platform.cancel()
    await server.stop.once()
    step = SweepObjects(platform.control())
    await step.once()
    await step.once()
    assert left(platform) == set()


async def test_checkpoints_without_a_row_are_deleted_but_not_what_an_attempt_may_still_report(
    platform: Platform,
) -> None:
    await platform.add_jobs(samples.alone())
    await platform.server().admit.once()
    prefix = keys.checkpoint_prefix("acme", UID)
    async with platform.units() as unit:
        await unit.jobs.get_by_uid(UID, for_update=True)
        checkpoint = Checkpoint(10, 0, f"{prefix}/step-00000010-attempt-0", 1, platform.clock.now())
        await unit.jobs.add_checkpoint(UID, checkpoint)
        await unit.commit()
    kept = put(
        platform,
        checkpoint.key,
        f"{prefix}/step-00000020-attempt-1",
        f"{prefix}/something-else",
        f"{keys.job_prefix('acme', UID)}/notes",
    )
    put(platform, f"{prefix}/step-00000005-attempt-0", f"{prefix}/step-00000010-attempt-2")
    step = SweepObjects(platform.control())
    await step.once()
    await step.once()
    assert left(platform) == kept
