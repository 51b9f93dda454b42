"""A server is killed before and after every single effect in turn; the next one goes on, and nothing happens twice."""

from collections.abc import Awaitable, Callable

from tests.contract.control.mortal import Fuse, Killed
from tests.contract.control.platform import Platform, check_invariants
from tests.contract.store import samples

from trellis.server.app.hosts import RunStatus
from trellis.server.control.attempts import submission_id_for
from trellis.server.domain.tuning_job import JobState

MOST_ROUNDS = 60
World = Callable[[Platform, int], Awaitable[None]]


async def live_through(platform: Platform, number: int, length: int, world: World) -> bool:
    """Run a new job to its end; the first server dies by the fuse. Whether it did."""
    uid = f"uid-acme-{number}"
    await platform.add_jobs(samples.alone(number))
    fuse = Fuse(length)
    server, died = platform.server(fuse=fuse), False
    for _ in range(MOST_ROUNDS):
        try:
            await server.round()
        except Killed:
            assert not died
            server, died = platform.server(), True
            platform.clock.pass_seconds(15)  # what the dead one had claimed is free again
        await check_invariants(platform, [uid])
        await world(platform, number)
        platform.clock.pass_seconds(3)
        if (await platform.job(uid)).ended and all(attempt.cleaned_up for attempt in await platform.attempts(uid)):
            return died
    raise AssertionError(f"the job did not end: {await platform.job(uid)}")


async def in_turn(platform: Platform, world: World, check: Callable[[Platform, int], Awaitable[None]]) -> int:
    """Every length of the fuse until it outlasts the job; how many there were."""
    for length in range(1, 200):
        died = await live_through(platform, length, length, world)
        await check(platform, length)
        if not died:
            return length
    raise AssertionError("the fuse never outlasted the job")


async def die_once_then_succeed(platform: Platform, number: int) -> None:
    """The process of the first attempt is killed, that of the second one succeeds."""
    first, second = (submission_id_for("here", f"uid-acme-{number}", attempt) for attempt in (1, 2))
    state = (await platform.job(f"uid-acme-{number}")).state
    for run in platform.cluster.alive():
        if state is JobState.STARTING:
            await platform.begin(run)
        elif state is JobState.RUNNING and run == first:
            platform.cluster.end(run, RunStatus.FAILED, "killed", output="words\n")
        elif state is JobState.RUNNING and run == second:
            await platform.complete(run)
            platform.cluster.end(run, RunStatus.SUCCEEDED)


async def test_a_killed_server_costs_a_job_nothing(platform: Platform) -> None:
    async def check(platform: Platform, number: int) -> None:
        uid = f"uid-acme-{number}"
        assert (await platform.job(uid)).state is JobState.SUCCEEDED
        runs = [run for run in platform.cluster.started if run.startswith(f"trellis-here-{uid}-")]
        assert runs == [submission_id_for("here", uid, 1), submission_id_for("here", uid, 2)]
        assert (await platform.log(uid)).count("words") == 1

    assert await in_turn(platform, die_once_then_succeed, check) > 15


async def cancel_while_it_runs(platform: Platform, number: int) -> None:
    """The job is cancelled once its process runs, which does not listen."""
    state = (await platform.job(f"uid-acme-{number}")).state
    if state is JobState.STARTING:
        for run in platform.cluster.alive():
            await platform.begin(run)
    elif state is JobState.RUNNING:
        await platform.cancel(number)


async def test_a_killed_server_lets_no_cancelled_job_run_on(platform: Platform) -> None:
    async def check(platform: Platform, number: int) -> None:
        assert (await platform.job(f"uid-acme-{number}")).state is JobState.CANCELLED
        assert platform.cluster.alive() == []

    assert await in_turn(platform, cancel_while_it_runs, check) > 10


async def test_a_server_that_was_held_up_does_not_start_what_is_over(platform: Platform) -> None:
    slow, quick = platform.server(), platform.server()
    await platform.add_jobs(samples.alone())
    await slow.admit.once()
    run = submission_id_for("here", "uid-acme-1", 1)
    status = platform.cluster.status

    async def held_up(submission_id: str) -> tuple[RunStatus, str]:
        platform.cluster.status = status
        answer = await status(submission_id)
        platform.clock.pass_seconds(15)
        await quick.launch.once()
        await platform.begin(run)
        await platform.complete(run)
        platform.cluster.end(run, RunStatus.SUCCEEDED)
        await quick.reap.once()
        return answer

    platform.cluster.status = held_up
    await slow.launch.once()
    assert platform.cluster.started == [run]
    assert platform.cluster.runs == {}
