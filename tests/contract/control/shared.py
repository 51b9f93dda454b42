"""A shared trainer's process, as the server knows it: it starts, claims, works on its attempts, and leaves."""

from dataclasses import replace

from tests.contract.control.platform import Platform, Server
from tests.contract.store import samples

from trellis.server.app.attempts import Process, fail_attempt, start_attempt
from trellis.server.app.authentication import authenticate
from trellis.server.app.progress import AttemptReport, report_attempt
from trellis.server.app.trainers import (
    Claimed,
    TrainerSetup,
    TrainerWord,
    claim_attempts,
    leave_trainer,
    start_trainer,
)
from trellis.server.domain.caller import Caller
from trellis.server.domain.stop import Stop
from trellis.server.domain.trainer import Room
from trellis.server.domain.tuning_job import EndCause, JobError, TuningJob

BANK_ROWS = 64
LINE_TOKENS = 1024


class SharedTrainer:
    """The process of a trainer's run; `jobs` are those that it has begun with, by their attempts' tokens."""

    def __init__(self, platform: Platform, run: str, max_jobs: int = 16) -> None:
        self.platform = platform
        self.run = run
        self.max_jobs = max_jobs
        self.jobs: dict[str, str] = {}
        self._token = platform.cluster.runs[run].request.environment["TRELLIS_TRAINER_TICKET"]

    async def caller(self) -> Caller:
        return await authenticate(self.platform.app, f"Bearer {self._token}")

    async def start(self) -> TrainerSetup:
        return await start_trainer(self.platform.app, await self.caller(), Process("1", "node-1", 7, "n" * 32))

    async def load(self) -> Claimed:
        """It still loads its base."""
        return await claim_attempts(self.platform.app, await self.caller(), TrainerWord())

    async def claim(self, room: Room | None = None) -> Claimed:
        """It says what it has room for, and is given attempts; none is begun with."""
        left = room or Room(self.max_jobs - len(self.jobs), BANK_ROWS - 16 * len(self.jobs), LINE_TOKENS)
        word = TrainerWord(left, len(self.jobs), 123.0 * len(self.jobs))
        return await claim_attempts(self.platform.app, await self.caller(), word)

    async def work(self) -> Claimed:
        """Claim, and begin with all that is given."""
        claimed = await self.claim()
        for one in claimed.attempts:
            await start_attempt(self.platform.app, await self.platform.caller_of(one.token), Process("1", "node-1", 7))
            self.jobs[one.token] = one.tuning_job
        return claimed

    async def report(self, token: str, number: int = 1) -> Stop | None:
        caller = await self.platform.caller_of(token)
        return await report_attempt(self.platform.app, caller, AttemptReport(number))

    async def complete(self, token: str) -> None:
        await self.platform.complete_as(await self.platform.caller_of(token))
        del self.jobs[token]

    async def fail(self, token: str, cause: EndCause) -> None:
        error = JobError("TRAINING_FAILED", "There is no room.")
        await fail_attempt(self.platform.app, await self.platform.caller_of(token), error, cause)
        self.jobs.pop(token, None)

    async def leave(self) -> bool:
        return await leave_trainer(self.platform.app, await self.caller())


def on_base(number: int, base: str) -> TuningJob:
    return samples.job(number, spec=samples.spec(base_model=f"baseModels/{base}", base_source=f"/models/{base}"))


async def admitted(platform: Platform, *numbers: int) -> Server:
    """A server, and these jobs on a trainer whose process was submitted."""
    server = platform.server()
    await platform.add_jobs(*(samples.job(number) for number in numbers or (1,)))
    await server.round()
    return server


async def training(platform: Platform, *numbers: int) -> tuple[Server, SharedTrainer]:
    """The same, and the trainer has begun with them."""
    server = await admitted(platform, *numbers)
    (run,) = platform.cluster.alive()
    trainer = SharedTrainer(platform, run)
    await trainer.start()
    await trainer.work()
    return server, trainer


async def allow_base(platform: Platform, base: str) -> None:
    """The dataset was found valid for this base too."""
    async with platform.units() as unit:
        done = replace(samples.report(base_model=f"baseModels/{base}"), valid=True)
        await unit.datasets.add_report(replace(done, state=type(done.state).DONE))
        await unit.commit()
