"""Anything in any order: servers that die anywhere, processes that die, users that cancel, a cluster that comes and goes."""

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.contract.control.mortal import Fuse, Hiccup, Killed
from tests.contract.control.platform import Platform, check_invariants
from tests.contract.control.shared import SharedTrainer
from tests.contract.store import samples

from trellis.errors import Aborted, FailedPrecondition, Unavailable
from trellis.server.app.hosts import RunStatus
from trellis.server.domain.tuning_job import EndCause, TuningJob
from trellis.server.store.engine import create_engine_for
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory

STEPS = (
    "admit",
    "launch",
    "launch_trainers",
    "stop",
    "watch",
    "watch_trainers",
    "reap",
    "reap_trainers",
    "orphans",
)
MOST_JOBS = 5


class Platforms(RuleBasedStateMachine):
    """One platform an example; two servers at most, each replaced when it dies."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="trellis-loops-"))
        shutil.copy(self.template, self.folder / "trellis.db")
        self.engine = create_engine_for(f"sqlite+aiosqlite:///{self.folder / 'trellis.db'}")
        self.platform = Platform(SqlUnitOfWorkFactory(self.engine), self.folder / "objects")
        self.uids: list[str] = []
        self.ended: dict[str, TuningJob] = {}
        self.reports: dict[str, int] = {}
        self.trainers: dict[str, SharedTrainer] = {}

    def teardown(self) -> None:
        self.runner.run(self.engine.dispose())
        self.runner.close()
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        self.runner.run(self.platform.prepare())
        self.servers = [self.platform.server(), self.platform.server()]

    @precondition(lambda self: len(self.uids) < MOST_JOBS)
    @rule(shares=st.booleans())
    def submit(self, shares: bool) -> None:
        job = (samples.job if shares else samples.alone)(len(self.uids) + 1)
        self.runner.run(self.platform.add_jobs(job))
        self.uids.append(job.uid)

    @rule(server=st.integers(0, 1), step=st.sampled_from(STEPS))
    def work(self, server: int, step: str) -> None:
        self._step(server, step)

    @rule(server=st.integers(0, 1))
    def work_on_all(self, server: int) -> None:
        for step in STEPS:
            self._step(server, step)

    @rule(server=st.integers(0, 1), step=st.sampled_from(STEPS), length=st.integers(1, 6))
    def work_and_die(self, server: int, step: str, length: int) -> None:
        fuse = Fuse(length)
        self.servers[server] = self.platform.server(fuse=fuse)
        with contextlib.suppress(Killed):
            self._step(server, step)
        self.servers[server] = self.platform.server()

    @rule(server=st.integers(0, 1), step=st.sampled_from(STEPS), length=st.integers(1, 6))
    def work_and_stumble(self, server: int, step: str, length: int) -> None:
        self.servers[server] = self.platform.server(fuse=Hiccup(length))
        self._step(server, step)

    @rule(seconds=st.sampled_from([1, 3, 16, 31, 301]))
    def pass_time(self, seconds: int) -> None:
        self.platform.clock.pass_seconds(seconds)

    @rule(flip=st.booleans())
    def reach_cluster(self, flip: bool) -> None:
        self.platform.cluster.reachable = flip

    @rule()
    def restart_cluster(self) -> None:
        self.platform.cluster.restart()

    @precondition(lambda self: self.uids)
    @rule(data=st.data())
    def ask_to_stop(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, len(self.uids)))
        self.runner.run(self.platform.cancel(number))

    @precondition(lambda self: self.uids)
    @rule(data=st.data(), deed=st.sampled_from(["pause", "resume", "preempt"]))
    def ask(self, data: st.DataObject, deed: str) -> None:
        number = data.draw(st.integers(1, len(self.uids)))
        with contextlib.suppress(FailedPrecondition):  # not in every state
            self.runner.run(getattr(self.platform, deed)(number=number))

    @precondition(lambda self: self.platform.cluster.alive())
    @rule(data=st.data(), deed=st.sampled_from(["begin", "report", "complete", "fail", "die", "leave"]))
    def act(self, data: st.DataObject, deed: str) -> None:
        """The process of a run does something; a fenced one is refused."""
        run = data.draw(st.sampled_from(list(self.platform.cluster.alive())))
        if deed in {"die", "leave"}:
            status = RunStatus.FAILED if deed == "die" else RunStatus.SUCCEEDED
            self.platform.cluster.end(run, status, "ended", output="words\n")
            return
        with contextlib.suppress(Aborted):
            is_trainer = "-trainer-" in run
            self.runner.run(self._call_as_trainer(run, deed) if is_trainer else self._call(run, deed))

    async def _call(self, run: str, deed: str) -> None:
        caller = await self.platform.caller(run)
        assert caller.attempt is not None
        async with self.platform.units(write=False) as unit:
            attempt = await unit.jobs.get_attempt(caller.attempt.job_uid, caller.attempt.attempt)
        assert attempt is not None
        if deed == "begin":
            await self.platform.begin(run)
        elif attempt.start_time is not None:
            arguments = (attempt.next_report,) if deed == "report" else ()
            await getattr(self.platform, deed)(run, *arguments)

    async def _call_as_trainer(self, run: str, deed: str) -> None:
        trainer = self.trainers.setdefault(run, SharedTrainer(self.platform, run))
        await trainer.start()
        if deed in {"begin", "report"}:
            await trainer.work()
        elif not trainer.jobs:
            left = await trainer.leave()
            assert not left or not await self._has_jobs(run), "it left with a job"
        else:
            token = next(iter(trainer.jobs))
            try:
                await (trainer.complete(token) if deed == "complete" else trainer.fail(token, EndCause.INFRASTRUCTURE))
            except Aborted:
                trainer.jobs.pop(token, None)
                raise

    async def _has_jobs(self, run: str) -> bool:
        async with self.platform.units(write=False) as unit:
            return bool(await unit.trainers.open_attempts([run.removeprefix("trellis-trainer-here-")]))

    def _step(self, server: int, step: str) -> None:
        with contextlib.suppress(Unavailable, ExceptionGroup):
            self.runner.run(getattr(self.servers[server], step).once())

    @invariant()
    def nothing_is_broken(self) -> None:
        if not self.uids:
            return
        self.runner.run(check_invariants(self.platform, self.uids))
        for uid in self.uids:
            job = self.runner.run(self.platform.job(uid))
            if uid in self.ended:
                assert job == self.ended[uid], "an ended job changed"
            elif job.ended:
                self.ended[uid] = job


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_order_of_events_breaks_a_job(sqlite_template: Path) -> None:
    Platforms.template = sqlite_template
    run_state_machine_as_test(
        Platforms,
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
