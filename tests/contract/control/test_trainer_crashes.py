"""A server is killed before and after every single effect while jobs run on trainers; nothing happens twice or is lost."""

import contextlib

from tests.contract.control.mortal import Fuse, Killed
from tests.contract.control.platform import Platform, check_invariants
from tests.contract.control.shared import SharedTrainer
from tests.contract.store import samples

from trellis.errors import Aborted
from trellis.server.app.hosts import RunStatus
from trellis.server.domain.tuning_job import JobState

MOST_ROUNDS = 40


class Processes:
    """The trainers' processes: the first one of a job dies with it, the second one does it, and leaves."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.known: dict[str, SharedTrainer] = {}
        self.deaths = 0

    async def act(self) -> None:
        for run in self.platform.cluster.alive():
            if run not in self.known:
                self.known[run] = SharedTrainer(self.platform, run)
                continue  # it starts
            with contextlib.suppress(Aborted):
                await self._act(self.known[run])

    async def _act(self, trainer: SharedTrainer) -> None:
        await trainer.start()
        await trainer.work()
        for token in list(trainer.jobs):
            if self.deaths == 0:
                self.deaths += 1
                self.platform.cluster.end(trainer.run, RunStatus.FAILED, "killed", output="words\n")
                return
            await trainer.complete(token)
        if self.deaths and not trainer.jobs and await trainer.leave():
            self.platform.cluster.end(trainer.run, RunStatus.SUCCEEDED)


async def live_through(platform: Platform, number: int) -> bool:
    """Run a new job to its end, until its trainers are cleared away; the first server dies by the fuse. Whether it did."""
    uid = f"uid-acme-{number}"
    await platform.add_jobs(samples.job(number))
    processes, server, died = Processes(platform), platform.server(fuse=Fuse(number)), False
    for _ in range(MOST_ROUNDS):
        try:
            await server.round()
        except Killed:
            assert not died
            server, died = platform.server(), True
        await check_invariants(platform, [uid])
        await processes.act()
        platform.clock.pass_seconds(3)
        is_over = (await platform.job(uid)).ended and not platform.cluster.alive() and not await platform.trainers()
        if is_over and all(attempt.cleaned_up for attempt in await platform.attempts(uid)):
            return died
    raise AssertionError(f"the job did not end: {await platform.job(uid)}")


async def test_a_killed_server_costs_jobs_on_trainers_nothing(platform: Platform) -> None:
    for number in range(1, 200):
        died = await live_through(platform, number)
        uid = f"uid-acme-{number}"
        assert (await platform.job(uid)).state is JobState.SUCCEEDED
        attempts = await platform.attempts(uid)
        assert len(attempts) == 2
        assert len({attempt.trainer_uid for attempt in attempts}) == 2
        assert len(platform.cluster.started) == 2 * number, "each trainer was begun once"
        if not died:
            assert number > 15
            return
    raise AssertionError("the fuse never outlasted the job")
