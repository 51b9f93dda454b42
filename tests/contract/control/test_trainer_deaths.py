"""Shared trainers that die, fall silent, never start or are forgotten, on both databases: whose jobs go on, and where."""

from dataclasses import replace
from datetime import datetime

import pytest
from tests.contract.control.platform import LEASE, UID, Platform, Server, check_invariants
from tests.contract.control.shared import SharedTrainer, admitted, training

from trellis.errors import Aborted, Reason, Unavailable
from trellis.server.app.hosts import RunStatus
from trellis.server.domain.run_trouble import RunTrouble, TroubleCode
from trellis.server.domain.trainer import TrainerState
from trellis.server.domain.tuning_job import JobState


@pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.STOPPED, RunStatus.SUCCEEDED])
async def test_a_dead_trainers_jobs_go_on_at_once_elsewhere(platform: Platform, status: RunStatus) -> None:
    server, trainer = await training(platform, 1, 2)
    platform.cluster.end(trainer.run, status, "Traceback\nexit code 137", output="the last words\n")
    await server.watch_trainers.once()
    for uid in (UID, "uid-acme-2"):
        job = await platform.job(uid)
        assert (job.state, job.failure_count) == (JobState.QUEUED, 1)
        said = (await platform.events(uid))[-1].message
        assert f"The shared trainer's process ended without a word; the cluster says {status}." in said
        assert "exit code 137" not in said, "what the process printed may be another tenant's"
    await server.round()
    assert platform.cluster.runs == {}, "it was cleared away"
    platform.clock.pass_seconds(2)
    await server.round()
    (run,) = platform.cluster.alive()
    another = SharedTrainer(platform, run)
    await another.start()
    assert [one.attempt for one in (await another.work()).attempts] == [2, 2]
    await check_invariants(platform, [UID, "uid-acme-2"])


async def test_a_restarted_cluster_costs_one_attempt(platform: Platform) -> None:
    server, trainer = await training(platform)
    platform.cluster.restart()
    await server.watch_trainers.once()
    assert (await platform.job()).state is JobState.QUEUED
    assert "does not know it any more" in (await platform.events())[-1].message
    with pytest.raises(Aborted):
        await trainer.claim()


async def test_a_cluster_that_lost_its_memory_before_the_first_call_is_told_again(platform: Platform) -> None:
    server = await admitted(platform)
    (run,) = platform.cluster.alive()
    platform.cluster.restart()
    await server.round()
    assert platform.cluster.alive() == [run]
    assert (await platform.job()).attempt_count == 1


async def test_a_silent_trainer_is_over_and_all_that_it_had(platform: Platform) -> None:
    server, trainer = await training(platform)
    token = next(iter(trainer.jobs))
    platform.cluster.reachable = False
    for number in range(1, 7):
        platform.clock.pass_seconds(LEASE / 2)
        if number <= 4:
            await trainer.claim()
        await trainer.report(token, number)  # the attempt itself is heard of
        await server.watch.once()
        await server.watch_trainers.once()
        if number <= 4:
            assert (await platform.job()).state is JobState.RUNNING
        if (await platform.job()).state is JobState.QUEUED:
            break
    assert "The shared trainer was silent for 30 s." in (await platform.events())[-1].message
    with pytest.raises(Aborted, match="is over"):
        await trainer.report(token, 9)
    with pytest.raises(Aborted, match="trainer is over"):
        await trainer.start()


class Ends:
    """What ended the one host that trainers have."""

    def __init__(self, platform: Platform) -> None:
        self._now = platform.clock.now
        self.trouble = RunTrouble(TroubleCode.OUT_OF_MEMORY, "A worker took more memory than its limit of 8Gi.")
        self.end_time = self._now()
        self.away = False
        self.is_late = False

    async def ended(self, host: str, since: datetime, until: datetime | None = None) -> RunTrouble | None:
        if self.away:
            raise Unavailable(Reason.ENGINE_UNAVAILABLE, "Nobody answers.")
        is_then = since <= self.end_time and (until is None or self.end_time <= until)
        return self.trouble if host == "node-1" and is_then and not self.is_late else None


async def test_what_ended_its_host_is_told_to_each_of_its_jobs(platform: Platform) -> None:
    _, trainer = await training(platform, 1, 2)
    ends = Ends(platform)
    server = Server(replace(platform.control(), ends=ends))
    platform.cluster.end(trainer.run, RunStatus.FAILED, "exit code 137")
    await server.watch_trainers.once()
    for uid in (UID, "uid-acme-2"):
        assert (await platform.job(uid)).state is JobState.QUEUED
        said = (await platform.events(uid))[-1].message
        assert "ended without a word; the cluster says FAILED. A worker took more memory than its limit of 8Gi." in said
        assert (await platform.attempts(uid))[-1].outcome.endswith("its limit of 8Gi.")


@pytest.mark.parametrize("why", ["an hour ago", "away"])
async def test_what_ended_its_host_at_another_time_is_not_told(platform: Platform, why: str) -> None:
    ends = Ends(platform)
    ends.away = why == "away"
    platform.clock.pass_seconds(3600)
    _, trainer = await training(platform)
    server = Server(replace(platform.control(), ends=ends))
    platform.cluster.end(trainer.run, RunStatus.FAILED)
    await server.watch_trainers.once()
    assert (await platform.job()).state is JobState.QUEUED
    assert "memory" not in (await platform.events())[-1].message


async def test_a_lost_or_silent_trainer_says_it_too(platform: Platform) -> None:
    await training(platform)
    ends = Ends(platform)
    server = Server(replace(platform.control(), ends=ends))
    platform.cluster.restart()
    await server.watch_trainers.once()
    assert "does not know it any more. A worker took more memory" in (await platform.events())[-1].message
    ends.end_time = platform.clock.now()
    for _ in range(3):
        await server.round()
        platform.clock.pass_seconds(2)
    (run,) = platform.cluster.alive()
    another = SharedTrainer(platform, run)
    await another.start()
    await another.work()
    platform.cluster.reachable = False
    for _ in range(6):
        ends.end_time = platform.clock.now()
        platform.clock.pass_seconds(LEASE / 2)
        await server.watch_trainers.once()
    said = [event.message for event in await platform.events()]
    assert any("was silent for 30 s. A worker took more memory than its limit of 8Gi." in one for one in said)


async def test_a_trainer_that_was_killed_for_its_memory_is_followed_by_one_that_takes_less(platform: Platform) -> None:
    _, trainer = await training(platform, 1, 2)
    server = Server(replace(platform.control(), ends=Ends(platform)))
    platform.cluster.end(trainer.run, RunStatus.FAILED, "exit code 137")
    await server.watch_trainers.once()
    for uid in (UID, "uid-acme-2"):
        job = await platform.job(uid)
        assert (job.state, job.memory_halvings, job.failure_count) == (JobState.QUEUED, 1, 0)
        said = (await platform.events(uid))[-1].message
        assert said.startswith("Attempt 1 ran out of memory: The shared trainer's process ended")
        assert said.endswith("The job goes on from its last checkpoint with 1/2 of the work in one pass.")
    await server.round()
    (run,) = platform.cluster.alive()
    assert platform.cluster.runs[run].request.environment["TRELLIS_TRAINER_PASS_TOKENS"] == "1024"
    assert len(await platform.events()) == len({event.message for event in await platform.events()}), "told once"
    await check_invariants(platform, [UID, "uid-acme-2"])


async def test_no_job_is_given_up_for_the_memory_of_all(platform: Platform) -> None:
    server = Server(replace(platform.control(), ends=Ends(platform)))
    _, trainer = await training(platform)
    most = platform.control().settings.retry.max_memory_halvings
    async with platform.units() as unit:
        job = await unit.jobs.get_by_uid(UID, for_update=True)
        assert job is not None
        await unit.jobs.save(replace(job, memory_halvings=most), ())
        await unit.commit()
    platform.cluster.end(trainer.run, RunStatus.FAILED, "exit code 137")
    await server.watch_trainers.once()
    job = await platform.job()
    assert (job.state, job.memory_halvings, job.failure_count) == (JobState.QUEUED, most, 1)


async def test_what_the_cluster_says_late_is_told_later_and_once(platform: Platform) -> None:
    _, trainer = await training(platform, 1, 2)
    ends = Ends(platform)
    ends.is_late = True
    server = Server(replace(platform.control(), ends=ends))
    (known,) = await platform.trainers()
    platform.cluster.end(trainer.run, RunStatus.FAILED, "exit code 137")
    await server.watch_trainers.once()
    await server.reap_trainers.once()
    assert (await platform.trainer(known.uid)).cleaned_up
    assert (await platform.job()).memory_halvings == 0
    ends.is_late = False
    for _ in range(2):
        await server.watch_trainers.once()
    for uid in (UID, "uid-acme-2"):
        job = await platform.job(uid)
        assert (job.state, job.memory_halvings, job.failure_count) == (JobState.QUEUED, 1, 1)
        told = [event.message for event in await platform.events(uid) if "limit of 8Gi" in event.message]
        heard = "Of attempt 1 the cluster says: A worker took more memory than its limit of 8Gi."
        assert told == [f"{heard} The job goes on with 1/2 of the work in one pass."]
        assert (await platform.attempts(uid))[-1].outcome.endswith("its limit of 8Gi.")
    assert (await platform.trainer(known.uid)).outcome.endswith("its limit of 8Gi.")


@pytest.mark.parametrize("why", ["too late", "of another time"])
async def test_a_word_that_is_not_about_a_trainer_s_end_is_not_told(platform: Platform, why: str) -> None:
    _, trainer = await training(platform)
    ends = Ends(platform)
    ends.is_late = True
    server = Server(replace(platform.control(), ends=ends))
    platform.cluster.end(trainer.run, RunStatus.FAILED)
    await server.watch_trainers.once()
    platform.clock.pass_seconds(200 if why == "too late" else 100)
    ends.end_time = platform.clock.now() if why == "of another time" else ends.end_time
    ends.is_late = False
    await server.watch_trainers.once()
    assert not [event for event in await platform.events() if "limit of 8Gi" in event.message]


async def test_a_server_that_was_away_listens_before_it_judges(platform: Platform) -> None:
    _, trainer = await training(platform)
    platform.clock.pass_seconds(3600)
    server = platform.server()
    await server.watch_trainers.once()
    await trainer.claim()
    platform.clock.pass_seconds(LEASE / 2)
    await server.watch_trainers.once()
    assert (await platform.job()).state is JobState.RUNNING


async def test_a_trainer_that_never_starts_gives_its_jobs_back(platform: Platform) -> None:
    server = await admitted(platform)
    (run,) = platform.cluster.alive()
    for _ in range(25):
        platform.clock.pass_seconds(15)
        await server.watch_trainers.once()
        await server.watch.once()
    assert "did not start within 300 s" in (await platform.events())[-1].message
    assert (await platform.job()).state is JobState.QUEUED
    await server.reap_trainers.once()
    assert platform.cluster.runs[run].status is RunStatus.STOPPED


async def test_loading_a_large_base_takes_no_time_from_its_jobs(platform: Platform) -> None:
    server = await admitted(platform)
    trainer = SharedTrainer(platform, platform.cluster.started[0])
    await trainer.start()
    for _ in range(60):
        platform.clock.pass_seconds(10)
        await trainer.load()
        await server.watch_trainers.once()
        await server.watch.once()
    assert (await platform.job()).state is JobState.STARTING
    await trainer.claim()
    await server.watch.once()
    assert len((await trainer.work()).attempts) == 1
    assert (await platform.job()).attempt_count == 1


async def test_a_trainer_that_never_begins_with_an_attempt_loses_it(platform: Platform) -> None:
    server = await admitted(platform)
    trainer = SharedTrainer(platform, platform.cluster.started[0])
    await trainer.start()
    for _ in range(40):
        platform.clock.pass_seconds(10)
        await trainer.claim()
        await server.watch.once()
    assert (await platform.job()).state is JobState.QUEUED
    assert (await platform.trainers())[0].state is TrainerState.RUNNING
