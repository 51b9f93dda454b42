"""What the ledger says of a job from its submission to its end, as its use cases write it."""

from dataclasses import replace

import pytest
from tests.server_fakes import World, admit, submit, upload, used, validate

from trellis.server.app import attempts, tuning_jobs
from trellis.server.app.attempt_usage import AttemptUsage
from trellis.server.app.attempts import Process
from trellis.server.app.holds import estimated
from trellis.server.app.ledger_reading import LedgerRange
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.ledger import EntryKind, LedgerEntry, Meter
from trellis.server.domain.prices import Prices
from trellis.server.domain.tuning_job import EndCause, JobError, TuningJob

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
MS, TOKENS = Meter.ACCELERATOR_MILLISECONDS, Meter.TRAINED_TOKENS
LOST = JobError("TRAINING_FAILED", "It was lost.")


async def entries(world: World) -> list[LedgerEntry]:
    async with world.context.units(write=False) as unit:
        return list((await unit.ledger.entries(LedgerRange("acme"), 100, None)).items)


async def submitted(world: World, base: BaseModel) -> TuningJob:
    await validate(world.context, await upload(world.context, "acme"), base)
    return await submit(world.context, "acme")


async def test_a_job_is_held_at_submit_settled_at_a_price_and_released(world: World, base: BaseModel) -> None:
    priced = replace(world.context.settings, prices=Prices("EUR", {MS: 5}, {base.name: {TOKENS: 7}}))
    context = replace(world.context, settings=priced)
    job = await submitted(world, base)
    whole = estimated(job.estimate)
    assert whole.keys() == {MS, TOKENS}
    first = await entries(world)
    assert {entry.meter: entry.quantity for entry in first} == whole
    assert {(entry.kind, entry.resource, entry.base_model) for entry in first} == {
        (EntryKind.HOLD, job.name, base.name)
    }

    _, caller = await admit(world.context, job)
    await attempts.start_attempt(context, caller, Process())
    usage = AttemptUsage(whole[TOKENS] + 3, 0.25)
    await attempts.fail_attempt(context, caller, LOST, EndCause.INFRASTRUCTURE, usage)
    later = (await entries(world))[len(first) :]
    assert [(entry.kind, entry.quantity, entry.price_nanos) for entry in later if entry.meter is TOKENS] == [
        (EntryKind.HOLD, 3, 0),
        (EntryKind.SETTLE, whole[TOKENS] + 3, 7),
        (EntryKind.HOLD, whole[TOKENS], 0),
    ], "as it is tried again, what it needs is held again"
    assert [(entry.quantity, entry.price_nanos) for entry in later if entry.meter is MS and entry.price_nanos] == [
        (500, 5)
    ], "a quarter of a second of two accelerators"

    _, second = await admit(world.context, await tuning_jobs.get_tuning_job(world.context, job.name))
    await attempts.start_attempt(context, second, Process())
    await attempts.fail_attempt(context, second, LOST, EndCause.USER)
    async with world.context.units(write=False) as unit:
        assert await unit.ledger.held(job.uid) == {}
    assert await used(world.context, "acme") == {MS: 500, TOKENS: whole[TOKENS] + 3}


async def test_a_job_that_never_ran_costs_nothing(world: World, base: BaseModel) -> None:
    job = await submitted(world, base)
    await tuning_jobs.cancel_tuning_job(world.context, job.name)
    async with world.context.units(write=False) as unit:
        assert await unit.ledger.held(job.uid) == {}
    kinds = [entry.kind for entry in await entries(world)]
    assert kinds == [EntryKind.HOLD] * 2 + [EntryKind.RELEASE] * 2
    assert await used(world.context, "acme") == {}
    await tuning_jobs.delete_tuning_job(world.context, job.name, "")
    assert len(await entries(world)) == 4, "the ledger outlives the job"
