"""Checkpoints: which are kept, pinned ones, and adapters that are made of them."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.contract.app.test_attempts import LOST, running
from tests.server_fakes import World, admit, keys, submit, write_adapter

from trellis.bases import read_base
from trellis.errors import FailedPrecondition, InvalidArgument, NotFound, Reason
from trellis.server.app import adapters, attempts, checkpoints, promotion, tuning_jobs
from trellis.server.app.attempts import Assignment, Process
from trellis.server.app.pages import PageQuery
from trellis.server.app.progress import AttemptReport, CommittedCheckpoint, report_attempt
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import Caller
from trellis.server.domain.tuning_job import EndCause, TuningJob
from trellis.spec import TrainSpec


@dataclass
class Run:
    """A job whose process commits checkpoints."""

    world: World
    job: TuningJob
    caller: Caller
    work: Assignment
    folder: Path
    reports: int = 0

    async def commit(self, step: int, valid_loss: float | None = None) -> str:
        """Lay a checkpoint with an adapter, and report it; its key."""
        key = f"{self.work.checkpoint_prefix}/step-{step:08d}-attempt-{self.work.attempt}"
        spec = TrainSpec.from_json(self.work.train_spec_json)
        folder = write_adapter(self.folder / str(step), read_base(spec.base_source), scale=step + 1.0)
        for file in folder.iterdir():
            self.world.store.put_file(f"{key}/{file.name}", file)
        self.world.store.put_bytes(f"{key}/COMMIT", b"{}")
        self.reports += 1
        committed = CommittedCheckpoint(step, key, 9, valid_loss)
        await report_attempt(self.world.context, self.caller, AttemptReport(self.reports, checkpoints=[committed]))
        return key

    def name(self, step: int | str) -> str:
        return f"{self.job.name}/checkpoints/{step}"

    async def listed(self) -> dict[int, tuple[bool, bool]]:
        """By step: whether it is pinned, and whether it is the best."""
        page = await checkpoints.list_checkpoints(self.world.context, self.job.name, PageQuery())
        return {one.checkpoint.step: (one.checkpoint.pinned, one.best) for one in page.items}

    def stored(self) -> set[str]:
        """The folders in which objects lie."""
        prefix = self.work.checkpoint_prefix + "/"
        return {key.removeprefix(prefix).split("/")[0] for key in keys(self.world.store) if key.startswith(prefix)}


@pytest.fixture
async def run(world: World, base: BaseModel, tmp_path: Path) -> Run:
    job, caller, work = await running(world, base)
    return Run(world, job, caller, work, tmp_path / "adapters")


def folders(*steps: int, attempt: int = 1) -> set[str]:
    return {f"step-{step:08d}-attempt-{attempt}" for step in steps}


async def test_the_last_two_the_best_and_pinned_ones_are_kept(run: Run) -> None:
    context = run.world.context
    await run.commit(5)
    await run.commit(10, 2.0)
    await checkpoints.update_checkpoint(context, run.name(5), ["pinned"], pinned=True)
    for step, loss in ((15, 1.0), (20, None), (25, 1.0), (30, float("nan")), (35, 3.0)):
        await run.commit(step, loss)
    assert await run.listed() == {5: (True, False), 15: (False, True), 30: (False, False), 35: (False, False)}
    assert run.stored() == folders(5, 15, 30, 35), "what is not kept has no objects either"
    let_go = await checkpoints.update_checkpoint(context, run.name(5), [], pinned=False)
    assert (let_go.checkpoint.step, let_go.checkpoint.pinned) == (5, False)
    assert set(await run.listed()) == {15, 30, 35}
    assert run.stored() == folders(15, 30, 35)


async def test_one_is_read_with_what_is_known_of_it(run: Run) -> None:
    await run.commit(5, 2.5)
    await run.commit(10)
    found = await checkpoints.get_checkpoint(run.world.context, run.name(5))
    assert (found.checkpoint.valid_loss, found.checkpoint.attempt, found.best) == (2.5, 1, True)
    assert not (await checkpoints.get_checkpoint(run.world.context, run.name(10))).best
    with pytest.raises(NotFound):
        await checkpoints.get_checkpoint(run.world.context, run.name(7))
    for step in ("05", "x"):
        with pytest.raises(InvalidArgument):
            await checkpoints.get_checkpoint(run.world.context, run.name(step))


async def test_only_pinned_can_be_changed(run: Run) -> None:
    await run.commit(5)
    with pytest.raises(InvalidArgument) as caught:
        await checkpoints.update_checkpoint(run.world.context, run.name(5), ["step"], pinned=True)
    assert [violation.field for violation in caught.value.violations] == ["update_mask"]
    assert not (await checkpoints.get_checkpoint(run.world.context, run.name(5))).checkpoint.pinned
    with pytest.raises(NotFound):
        await checkpoints.update_checkpoint(run.world.context, run.name(6), [], pinned=True)
    assert (await checkpoints.update_checkpoint(run.world.context, run.name(5), ["*"], pinned=True)).checkpoint.pinned


async def test_a_step_that_is_done_again_replaces_its_checkpoint_and_stays_pinned(run: Run) -> None:
    context = run.world.context
    await run.commit(5)
    await run.commit(10)
    await checkpoints.update_checkpoint(context, run.name(10), [], pinned=True)
    await attempts.fail_attempt(context, run.caller, LOST, EndCause.INFRASTRUCTURE)
    _, caller = await admit(context, run.job)
    work = await attempts.start_attempt(context, caller, Process())
    assert work.resume_step == 10
    again = Run(run.world, run.job, caller, work, run.folder)
    await again.commit(10)
    assert await run.listed() == {5: (False, False), 10: (True, False)}
    assert run.stored() == folders(5) | folders(10, attempt=2)


async def test_what_another_job_starts_from_is_kept_until_it_has_ended(run: Run) -> None:
    context = run.world.context
    await run.commit(5)
    other = await submit(context, "acme", initial_adapter=run.name(5))
    await run.commit(10)
    await run.commit(15)
    assert set(await run.listed()) == {5, 10, 15}
    await attempts.fail_attempt(context, run.caller, LOST, EndCause.USER)
    with pytest.raises(FailedPrecondition) as caught:
        await tuning_jobs.delete_tuning_job(context, run.job.name, "")
    assert caught.value.reason == Reason.RESOURCE_IN_USE
    await tuning_jobs.cancel_tuning_job(context, other.name)
    await checkpoints.update_checkpoint(context, run.name(10), [], pinned=True)
    assert set(await run.listed()) == {10, 15}
    assert run.stored() == folders(10, 15)
    await tuning_jobs.delete_tuning_job(context, run.job.name, "")
    assert run.stored() == set()


async def test_an_adapter_is_made_of_a_checkpoint_once(run: Run) -> None:
    context = run.world.context
    await run.commit(5, 1.5)
    made = await promotion.promote_checkpoint(context, run.name(5), "Early")
    assert (made.display_name, made.tuning_job, made.rank) == ("Early", run.job.name, 2)
    assert await promotion.promote_checkpoint(context, run.name(5), "Another name") == made
    assert await adapters.get_adapter(context, made.name) == made
    files = {file.name: b"".join([piece async for piece in file.pieces]) async for file in _files(run, made.name)}
    assert set(files) == {"manifest.json", "adapter_config.json", "adapter_model.safetensors"}
    assert files["adapter_model.safetensors"] == (run.folder / "5" / "adapter_model.safetensors").read_bytes()
    await run.commit(10)
    other = await promotion.promote_checkpoint(context, run.name(10))
    assert other.name != made.name
    assert other.display_name.endswith("step 10")
    await run.commit(15)
    with pytest.raises(NotFound):
        await promotion.promote_checkpoint(context, run.name(20))


def _files(run: Run, name: str):
    return adapters.download_adapter(run.world.context, name)


async def test_a_checkpoint_that_is_no_sound_adapter_is_not_promoted(run: Run) -> None:
    key = await run.commit(5)
    run.world.store.put_bytes(f"{key}/adapter_model.safetensors", b"\x80\x04pickle")
    with pytest.raises(FailedPrecondition) as caught:
        await promotion.promote_checkpoint(run.world.context, run.name(5))
    assert caught.value.reason == Reason.ADAPTER_INVALID
    assert not [found for found in keys(run.world.store) if "/adapters/" in found]
    run.world.store.delete_prefix(key)
    with pytest.raises(NotFound):
        await promotion.promote_checkpoint(run.world.context, run.name(5))
