"""A shared trainer as a process, with a store, a dataset and a server that records; for tests of many jobs at once."""

import asyncio
import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from tests.recording_trainer import TRAINER_TICKET, Recorded, RecordingPlatform
from tests.tiny_llama import chat_line
from trellis.bases import read_base
from trellis.objects import ObjectStore
from trellis.spec import Lora, TrainSpec
from trellis.tokens import ChatTokenizer
from trellis.v1.trainer_pb2 import ClaimedAttempt, StartTrainerResponse
from trellis.v1.worker_pb2 import StartAttemptResponse
from trellis_jobs.shared.attempt import Attempt
from trellis_jobs.shared.engine import Engine, OneProcess
from trellis_jobs.shared.fused import FusedModel
from trellis_jobs.shared.main import build

COLOURS = ("red", "green", "blue", "amber")
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1"}


@dataclass
class World:
    """A store with a dataset, and a spec that trains on it."""

    store: ObjectStore
    spec: TrainSpec

    def work(self, job: str, attempt: int = 1, **changes: object) -> StartAttemptResponse:
        spec = replace(self.spec, **changes)
        return StartAttemptResponse(
            tuning_job=f"tenants/acme/tuningJobs/{job}",
            attempt=attempt,
            train_spec_json=spec.to_json(),
            store_url=self.store.url,
            training_key="data/train.jsonl",
            checkpoint_prefix=f"jobs/{job}/checkpoints",
            adapter_prefix=f"jobs/{job}/attempts/{attempt}/adapter",
            heartbeat_seconds=5,
            next_report=1,
        )

    def resumed(self, work: StartAttemptResponse, before: Recorded) -> StartAttemptResponse:
        """The next attempt of a job, from the newest checkpoint that was reported."""
        again = StartAttemptResponse()
        again.CopyFrom(work)
        again.attempt += 1
        again.adapter_prefix = self.work(work.tuning_job.rpartition("/")[2], again.attempt).adapter_prefix
        again.resume_key, again.resume_step = before.checkpoints()[-1].key, before.checkpoints()[-1].step
        return again

    def platform(self, **changes: object) -> RecordingPlatform:
        start = StartTrainerResponse(
            trainer="t1",
            base_model=self.spec.base_model,
            base_source=self.spec.base_source,
            base_revision=self.spec.base_revision,
            tokenizer_digest=self.spec.tokenizer_digest,
            precision="fp32",
            store_url=self.store.url,
            heartbeat_seconds=5,
            idle_seconds=60,
            max_jobs=8,
            workers=1,
        )
        start.MergeFrom(StartTrainerResponse(**changes))  # type: ignore[arg-type]
        return RecordingPlatform(start)

    def weights(self, job: str, attempt: int = 1) -> bytes:
        return self.store.read_bytes(f"jobs/{job}/attempts/{attempt}/adapter/adapter_model.safetensors")


def make_world(base_folder: Path, store_folder: Path) -> World:
    """A world of 40 lines about colours."""
    lines = [chat_line(f"what colour is {number}?", COLOURS[number % 4]) for number in range(40)]
    data = "\n".join(lines).encode()
    store = ObjectStore.open(str(store_folder))
    store.put_bytes("data/train.jsonl", data)
    spec = TrainSpec(
        base_model="baseModels/tiny",
        base_source=str(base_folder),
        base_revision=read_base(str(base_folder)).revision,
        tokenizer_digest=ChatTokenizer.load(base_folder).digest,
        training_dataset="tenants/acme/datasets/colours/versions/" + hashlib.sha256(data).hexdigest(),
        training_sha256=hashlib.sha256(data).hexdigest(),
        context_length=64,
        lora=Lora(rank=4, alpha=8.0, dropout=0.1),
        batch_size=8,
        max_evaluation_lines=4,
        learning_rate=1e-2,
    )
    return World(store, spec)


@contextlib.asynccontextmanager
async def serving(platform: RecordingPlatform) -> AsyncIterator[RecordingPlatform]:
    await platform.up()
    try:
        yield platform
    finally:
        await platform.down()


@contextlib.asynccontextmanager
async def process(platform: RecordingPlatform, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        **os.environ,
        **THREADS,
        "TRELLIS_WORKER_ENDPOINT": platform.address,
        "TRELLIS_TRAINER_TICKET": TRAINER_TICKET,
        **environment,
    }
    trainer = await asyncio.create_subprocess_exec(sys.executable, "-m", "trellis_jobs.shared.main", env=environment)
    try:
        yield trainer
    finally:
        with contextlib.suppress(ProcessLookupError):
            trainer.kill()
        await trainer.wait()


async def run_all(world: World, *works: StartAttemptResponse) -> list[Recorded]:
    """What the attempts told when one trainer had all of them from the start."""
    async with serving(world.platform(idle_seconds=0.3)) as platform:
        attempts = await platform.give(*works)
        async with process(platform) as trainer:
            assert await asyncio.wait_for(trainer.wait(), 180) == 0
            assert platform.left
        return attempts


class LocalTrainer:
    """A trainer in this process, on a thread of its own, for tests that reach into it."""

    def __init__(self, platform: RecordingPlatform, engine_of: Callable[[FusedModel], Engine] | None = None) -> None:
        self._platform = platform
        self.trainer, self.room = build(platform.start, lambda: None, engine_of or OneProcess)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self.trainer.run, args=(self._over,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self.trainer.stop()
        self._thread.join()

    async def give(self, *works: StartAttemptResponse) -> list[Recorded]:
        """Give attempts to the loop at once, all in the same turn if it has not begun."""
        attempts = await self._platform.give(*works)
        for attempt in attempts:
            claimed = ClaimedAttempt(
                token=attempt.token, tuning_job=attempt.work.tuning_job, attempt=attempt.work.attempt
            )
            local = Attempt(self._platform.address, claimed, "1.2.3")
            await asyncio.to_thread(local.start)
            self.trainer.give(local)
        return attempts

    async def run(self, *works: StartAttemptResponse) -> list[Recorded]:
        """What attempts told, all given before the loop begins."""
        attempts = await self.give(*works)
        with self:
            await self._platform.until(lambda: all(attempt.over for attempt in attempts))
        return attempts

    def _over(self, jobs: int) -> bool:
        return self._closing.is_set() and not jobs
