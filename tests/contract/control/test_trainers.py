"""Shared trainers through the loops, on both databases: how they come, are given jobs, die, make room and go."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.contract.control.platform import LEASE, UID, Platform, check_invariants
from tests.contract.control.shared import SharedTrainer, admitted, allow_base, on_base, training
from tests.contract.store import samples

from trellis.errors import Aborted, Unauthenticated
from trellis.server.app.authentication import authenticate
from trellis.server.app.hosts import RunRequest, RunStatus
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.app.tokens import attempt_token, trainer_ticket, trainer_token
from trellis.server.domain.caller import Role
from trellis.server.domain.trainer import Room, TrainerState
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.domain.tuning_job import EndCause, JobState, QueueCode
from trellis.spec import Lora


async def test_jobs_of_a_base_share_one_run(platform: Platform) -> None:
    server = await admitted(platform, 1, 2)
    (trainer,) = await platform.trainers()
    assert platform.cluster.started == [trainer.submission_id] == [f"trellis-trainer-here-{trainer.uid}"]
    request = platform.cluster.runs[trainer.submission_id].request
    assert request.entrypoint == ("python", "-m", "trellis_jobs.shared.main")
    assert request.environment["TRELLIS_TRAINER_TICKET"] == trainer_ticket(b"s" * 32, trainer.uid)
    assert request.environment["TRELLIS_WORKER_ENDPOINT"] == "127.0.0.1:1"
    assert request.environment["OMP_NUM_THREADS"] == "1"
    assert (request.cpus, request.gpus) == (1.0, 0.0)
    assert request.metadata == {"trainer": trainer.uid, "base_model": "baseModels/tiny"}
    for uid in (UID, "uid-acme-2"):
        (attempt,) = await platform.attempts(uid)
        assert (attempt.trainer_uid, attempt.submission_id) == (trainer.uid, "")
    assert (await platform.events())[-1].message == f"Attempt 1 is given to the shared trainer {trainer.uid}."
    await server.round()
    assert len(platform.cluster.started) == 1
    await check_invariants(platform, [UID, "uid-acme-2"])


async def test_workers_and_threads_are_what_is_reserved(platform: Platform) -> None:
    options = TrainerOptions(cpus=2.5, gpus=1.0, workers=3, rank_rows=512)
    platform.settings = replace(platform.settings, capacity_cpus=8.0, capacity_gpus=3.0, trainers=options)
    await admitted(platform)
    (trainer,) = await platform.trainers()
    assert (trainer.cpus, trainer.gpus, trainer.workers) == (7.5, 3.0, 3)
    request = platform.cluster.runs[trainer.submission_id].request
    assert (request.cpus, request.gpus) == (2.5, 1.0), "the other workers reserve theirs"
    assert request.environment["OMP_NUM_THREADS"] == "2"
    assert request.environment["TRELLIS_TRAINER_RANK_ROWS"] == "512"
    assert "TRELLIS_TRAINER_PASS_TOKENS" not in request.environment


async def test_a_trainer_is_told_its_base_and_settings(platform: Platform) -> None:
    await admitted(platform)
    trainer = SharedTrainer(platform, platform.cluster.started[0])
    setup = await trainer.start()
    assert setup.base.base_model == "baseModels/tiny"
    assert (setup.base.base_source, setup.base.base_revision) == ("/models/tiny", "r1")
    assert (setup.base.tokenizer_digest, setup.base.precision) == (samples.SHA, "auto")
    assert setup.heartbeat_seconds == LEASE / 3
    assert setup == await trainer.start(), "asked again, it is told the same"
    (row,) = await platform.trainers()
    assert (row.hostname, row.start_time) == ("node-1", platform.clock.now())
    assert row.lease_expire_time == platform.clock.now() + timedelta(seconds=LEASE)


async def test_a_trainer_is_given_its_attempts_with_their_tokens_until_it_has_begun(platform: Platform) -> None:
    server = await admitted(platform)
    trainer = SharedTrainer(platform, platform.cluster.started[0])
    await trainer.start()
    assert await trainer.load() == await trainer.load()
    assert not (await trainer.load()).attempts, "nothing is given while the base is being loaded"
    (first,) = (await trainer.claim()).attempts
    assert (await trainer.claim()).attempts == [first]
    assert first.token == attempt_token(b"s" * 32, UID, 1)
    assert (first.tuning_job, first.attempt) == ("tenants/acme/tuningJobs/job-1", 1)
    await trainer.work()
    assert (await platform.job()).state is JobState.RUNNING
    assert not (await trainer.claim()).attempts
    await trainer.complete(first.token)
    assert (await platform.job()).state is JobState.SUCCEEDED
    await server.round()
    assert [attempt.cleaned_up for attempt in await platform.attempts()] == [True]
    assert platform.cluster.alive() == [trainer.run], "the trainer stays for the next one"
    await check_invariants(platform, [UID])


async def test_the_next_job_goes_on_the_warm_trainer(platform: Platform) -> None:
    server, trainer = await training(platform)
    await platform.add_jobs(samples.job(2))
    await server.admit.once()
    claimed = await trainer.work()
    assert [one.tuning_job for one in claimed.attempts] == ["tenants/acme/tuningJobs/job-2"]
    assert platform.cluster.started == [trainer.run]


async def test_room_that_was_told_is_kept_with_the_rest(platform: Platform) -> None:
    _, trainer = await training(platform, 1, 2)
    platform.clock.pass_seconds(5)
    await trainer.claim(Room(3, 40, 2048))
    (row,) = await platform.trainers()
    assert (row.state, row.room, row.room_time) == (TrainerState.RUNNING, Room(3, 40, 2048), platform.clock.now())
    assert (row.job_count, row.tokens_per_second, row.busy_time) == (2, 246.0, platform.clock.now())


async def test_a_job_without_room_waits_until_another_ends(platform: Platform) -> None:
    server, trainer = await training(platform)
    await trainer.claim(Room(5, 8, 1024))
    await platform.add_jobs(samples.job(2))
    await server.admit.once()
    waiting = (await platform.job("uid-acme-2")).queue_reason
    assert waiting is not None
    assert waiting.code is QueueCode.CAPACITY
    assert "The trainer of baseModels/tiny has no room for it" in waiting.message
    await trainer.complete(next(iter(trainer.jobs)))
    await trainer.claim()
    await server.admit.once()
    assert (await platform.job("uid-acme-2")).state is JobState.STARTING


async def test_what_was_given_since_it_said_so_is_taken_off_its_room(platform: Platform) -> None:
    platform.settings = replace(platform.settings, tenant_running_limit=9)
    server, trainer = await training(platform)
    platform.clock.pass_seconds(1)
    await trainer.claim(Room(5, 40, 1024))
    for number in (2, 3, 4):
        await platform.add_jobs(samples.job(number))
        await server.admit.once()
    states = [(await platform.job(f"uid-acme-{number}")).state for number in (2, 3, 4)]
    assert states == [JobState.STARTING, JobState.STARTING, JobState.QUEUED], "16 rows each, of 40"


async def test_a_job_that_no_trainer_can_run_fails_with_the_numbers(platform: Platform) -> None:
    server, trainer = await training(platform)
    await trainer.complete(next(iter(trainer.jobs)))
    await trainer.claim()
    await platform.add_jobs(samples.job(2, spec=samples.spec(lora=Lora(rank=128))))
    await server.admit.once()
    job = await platform.job("uid-acme-2")
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert "takes 128 rank rows, and a trainer of baseModels/tiny has 64 in all" in job.error.message


async def test_a_high_rank_on_few_linears_runs_where_it_fits(platform: Platform) -> None:
    platform.settings = replace(platform.settings, tenant_running_limit=9)
    server, trainer = await training(platform)
    await trainer.claim(Room(5, 40, 1024))
    spec = samples.spec(lora=Lora(rank=128, target_modules=("q_proj",)))
    for number in (2, 3):
        await platform.add_jobs(samples.job(number, spec=spec, adapted_share=0.125))
    await server.admit.once()
    states = [(await platform.job(f"uid-acme-{number}")).state for number in (1, 2, 3)]
    assert states == [JobState.RUNNING, JobState.STARTING, JobState.STARTING], "16 rows each, of 40"


async def test_a_declined_job_is_queued_again_and_may_find_room_later(platform: Platform) -> None:
    server = await admitted(platform)
    trainer = SharedTrainer(platform, platform.cluster.started[0])
    await trainer.start()
    (given,) = (await trainer.claim()).attempts
    await trainer.fail(given.token, EndCause.DECLINED)
    assert (await platform.job()).state is JobState.QUEUED
    platform.clock.pass_seconds(1)
    await server.admit.once()
    (again,) = (await trainer.work()).attempts
    assert (again.attempt, again.token) == (2, attempt_token(b"s" * 32, UID, 2))
    assert (await platform.job()).failure_count == 0


async def test_an_idle_trainer_leaves_and_the_next_job_starts_another(platform: Platform) -> None:
    server, trainer = await training(platform)
    assert not await trainer.leave(), "it has a job"
    await trainer.complete(next(iter(trainer.jobs)))
    assert await trainer.leave()
    with pytest.raises(Aborted, match="is over"):
        await trainer.claim()
    await server.round()
    assert platform.cluster.alive() == [trainer.run], "it may end by itself"
    platform.cluster.end(trainer.run, RunStatus.SUCCEEDED)
    await server.round()
    assert platform.cluster.runs == {}
    await platform.add_jobs(samples.job(2))
    await server.round()
    assert len(platform.cluster.alive()) == 1
    assert platform.cluster.alive() != [trainer.run]


async def test_a_trainer_that_was_let_go_but_stays_is_stopped(platform: Platform) -> None:
    server, trainer = await training(platform)
    await trainer.complete(next(iter(trainer.jobs)))
    assert await trainer.leave()
    platform.clock.pass_seconds(60)
    await server.reap_trainers.once()
    assert platform.cluster.alive() == []


async def test_a_trainer_does_not_leave_with_a_job_that_it_has_not_heard_of(platform: Platform) -> None:
    server, trainer = await training(platform)
    await trainer.complete(next(iter(trainer.jobs)))
    await platform.add_jobs(samples.job(2))
    await server.admit.once()
    assert not await trainer.leave()
    assert len((await trainer.work()).attempts) == 1


async def test_leaving_and_admission_never_both_win(platform: Platform, other_units: UnitOfWorkFactory) -> None:
    """Over and over on both databases: a job is given to a trainer that stays, or to another one."""
    server, trainer = await training(platform)
    await trainer.complete(next(iter(trainer.jobs)))
    other = platform.server(other_units)
    for number in range(2, 12):
        await platform.add_jobs(samples.job(number))
        left, _ = await asyncio.gather(trainer.leave(), other.admit.once())
        await server.admit.once()
        (attempt,) = await platform.attempts(f"uid-acme-{number}")
        row = await platform.trainer(attempt.trainer_uid)
        assert not row.is_over
        assert left == (row.submission_id != trainer.run)
        await server.launch_trainers.once()
        if left:
            trainer = SharedTrainer(platform, row.submission_id)
            await trainer.start()
        await trainer.work()
        await trainer.complete(next(iter(trainer.jobs)))


async def test_a_cancelled_job_leaves_the_others_alone(platform: Platform) -> None:
    server, trainer = await training(platform, 1, 2)
    await platform.cancel()
    platform.clock.pass_seconds(5)
    await trainer.claim()
    await server.round()
    assert (await platform.job()).state is JobState.CANCELLED
    mine, other = sorted(trainer.jobs, key=lambda token: trainer.jobs[token])
    with pytest.raises(Aborted, match="is over"):
        await trainer.report(mine)
    assert await trainer.report(other) is None
    assert platform.cluster.alive() == [trainer.run]
    await check_invariants(platform, [UID, "uid-acme-2"])


async def test_a_job_that_is_cancelled_before_it_was_given_is_not_given(platform: Platform) -> None:
    server = await admitted(platform)
    await platform.cancel()
    await server.stop.once()
    trainer = SharedTrainer(platform, platform.cluster.started[0])
    await trainer.start()
    assert not (await trainer.claim()).attempts


async def test_an_idle_trainer_makes_room_for_another_base(platform: Platform) -> None:
    platform.settings = replace(platform.settings, capacity_cpus=1.0)
    await allow_base(platform, "large")
    server, trainer = await training(platform)
    await trainer.complete(next(iter(trainer.jobs)))
    await platform.add_jobs(on_base(2, "large"))
    await server.round()
    waiting = (await platform.job("uid-acme-2")).queue_reason
    assert waiting is not None
    assert "It needs a trainer of baseModels/large, which takes 1 CPU" in waiting.message
    claimed = await trainer.claim()
    assert claimed.drain
    assert await trainer.leave()
    await server.round()
    (other,) = await platform.trainers()
    assert (other.base_model, other.state) == ("baseModels/large", TrainerState.STARTING)
    await check_invariants(platform, [UID, "uid-acme-2"])


async def test_a_trainer_that_does_not_leave_is_ended(platform: Platform) -> None:
    platform.settings = replace(platform.settings, capacity_cpus=1.0)
    server, trainer = await training(platform)
    await trainer.complete(next(iter(trainer.jobs)))
    await platform.add_jobs(samples.alone(2))
    await server.admit.once()
    platform.clock.pass_seconds(29)
    await trainer.claim()
    await server.watch_trainers.once()
    assert (await platform.trainers())[0].state is TrainerState.DRAINING
    platform.clock.pass_seconds(1)
    await server.watch_trainers.once()
    await server.reap_trainers.once()
    assert platform.cluster.runs[trainer.run].status is RunStatus.STOPPED
    await server.round()
    assert (await platform.job("uid-acme-2")).state is JobState.STARTING


async def test_a_trainer_that_drains_before_its_process_is_there_is_ended_at_once(platform: Platform) -> None:
    platform.settings = replace(platform.settings, capacity_cpus=1.0)
    server = await admitted(platform)
    await platform.cancel()
    await server.stop.once()
    await platform.add_jobs(samples.alone(2))
    await server.round()
    await server.round()
    assert (await platform.job("uid-acme-2")).state is JobState.STARTING


async def test_a_trainer_whose_turn_ends_before_it_was_launched_does_its_jobs_all_the_same(platform: Platform) -> None:
    platform.settings = replace(platform.settings, capacity_cpus=1.0)
    await platform.add_jobs(samples.job(1), samples.alone(2))
    server = platform.server()
    await server.admit.once()
    platform.clock.pass_seconds(20)
    await server.admit.once()
    assert (await platform.trainers())[0].state is TrainerState.DRAINING
    await server.watch_trainers.once()
    await server.launch_trainers.once()
    trainer = SharedTrainer(platform, platform.cluster.started[0])
    await trainer.start()
    claimed = await trainer.work()
    assert (len(claimed.attempts), claimed.drain) == (1, True)
    await trainer.complete(next(iter(trainer.jobs)))
    assert (await platform.job()).state is JobState.SUCCEEDED


async def test_two_bases_take_turns_on_one_place(platform: Platform) -> None:
    """Both are flooded with jobs; neither waits for ever, and nothing that runs is thrown out."""
    options = TrainerOptions(max_jobs=2, turn_seconds=10.0)
    platform.settings = replace(platform.settings, capacity_cpus=1.0, tenant_running_limit=9, trainers=options)
    await allow_base(platform, "large")
    server, uids, bases = platform.server(), [], []
    for number in range(1, 17):
        await platform.add_jobs(on_base(number, "large" if number % 2 else "tiny"))
        uids.append(f"uid-acme-{number}")
    processes: dict[str, SharedTrainer] = {}
    for _ in range(120):
        await server.round()
        await check_invariants(platform, uids)
        for run in platform.cluster.alive():
            if run not in processes:
                processes[run] = SharedTrainer(platform, run, max_jobs=2)
                bases.append((await processes[run].start()).base.base_model)
            trainer = processes[run]
            finished = list(trainer.jobs)
            for token in finished:
                await trainer.complete(token)
            claimed = await trainer.work()
            if claimed.drain and not trainer.jobs and await trainer.leave():
                platform.cluster.end(run, RunStatus.SUCCEEDED)
        platform.clock.pass_seconds(5)
        if all([(await platform.job(uid)).ended for uid in uids]):
            break
    assert [(await platform.job(uid)).state for uid in uids] == [JobState.SUCCEEDED] * 16
    assert [(await platform.job(uid)).attempt_count for uid in uids] == [1] * 16
    assert len(bases) > 2, bases


async def test_a_trainers_run_that_nobody_knows_is_stopped(platform: Platform) -> None:
    server, trainer = await training(platform)
    for run in ("trellis-trainer-here-trainer-nobody", "trellis-trainer-there-trainer-1"):
        await platform.cluster.submit(RunRequest(run, ("sleep", "9"), {}, 1.0, 0.0, {}))
    await server.round()
    assert platform.cluster.alive() == [trainer.run, "trellis-trainer-there-trainer-1"]


async def test_a_server_that_was_held_up_starts_no_trainer_that_is_over(platform: Platform) -> None:
    slow, quick = platform.server(), platform.server()
    await platform.add_jobs(samples.job())
    await slow.admit.once()
    status = platform.cluster.status

    async def held_up(submission_id: str) -> tuple[RunStatus, str]:
        platform.cluster.status = status  # type: ignore[method-assign]
        answer = await status(submission_id)
        await quick.launch_trainers.once()
        trainer = SharedTrainer(platform, submission_id)
        await trainer.start()
        await trainer.work()
        await trainer.complete(next(iter(trainer.jobs)))
        assert await trainer.leave()
        platform.cluster.end(submission_id, RunStatus.SUCCEEDED)
        await quick.reap_trainers.once()
        return answer

    platform.cluster.status = held_up  # type: ignore[method-assign]
    await slow.launch_trainers.once()
    assert len(platform.cluster.started) == 1
    assert platform.cluster.runs == {}


async def test_tokens_tell_trainers_apart(platform: Platform) -> None:
    await admitted(platform)
    (row,) = await platform.trainers()
    caller = await authenticate(platform.app, f"Bearer {trainer_token(b's' * 32, row.uid)}")
    assert (caller.role, caller.tenant, caller.trainer_uid) == (Role.TRAINER, None, row.uid)
    for token in (trainer_token(b"other", row.uid), trainer_token(b"s" * 32, "trainer-nobody")):
        with pytest.raises(Unauthenticated, match="trainer's token is unknown"):
            await authenticate(platform.app, f"Bearer {token}")
