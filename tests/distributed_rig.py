"""A store, a base and a job for the distributed trainer, and its process against a server that records."""

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.recording_worker import TICKET, RecordingWorker
from tests.tiny_llama import chat_line, write_tiny_llama
from trellis.bases import read_base
from trellis.objects import ObjectStore
from trellis.spec import Distributed, Lora, TrainSpec
from trellis.tokens import ChatTokenizer
from trellis.v1.worker_pb2 import StartAttemptResponse

PREFERENCES = "data/preferences.jsonl"
COLOURS = ("red", "green", "blue", "amber")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "HF_HUB_OFFLINE": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "TRELLIS_WORKER_CPUS": "1",
    "TRELLIS_WORKER_GPUS": "0",
}
SECONDS = 240


@dataclass(frozen=True)
class World:
    """A store with a dataset, and a spec that trains on it."""

    store: ObjectStore
    spec: TrainSpec

    def work(self, distributed: Distributed, job: str = "1", **changes: object) -> StartAttemptResponse:
        spec = replace(self.spec, distributed=distributed, **changes)  # type: ignore[arg-type]
        return StartAttemptResponse(
            tuning_job=f"tenants/acme/tuningJobs/{job}",
            attempt=1,
            train_spec_json=spec.to_json(),
            store_url=self.store.url,
            training_key="data/train.jsonl",
            checkpoint_prefix=f"jobs/{job}/checkpoints",
            adapter_prefix=f"jobs/{job}/attempts/1/adapter",
            model_prefix=f"jobs/{job}/model",
            heartbeat_seconds=30,
            next_report=1,
        )


def make_world(folder: Path) -> World:
    """Forty short lines, and a base of two layers."""
    base = write_tiny_llama(folder / "base")
    lines = [
        chat_line(f"what colour is {number}{' please' * (number % 3)}?", COLOURS[number % 4]) for number in range(40)
    ]
    data = "\n".join(lines).encode()
    store = ObjectStore.open(str(folder / "store"))
    store.put_bytes("data/train.jsonl", data)
    pairs = [
        json.dumps({"prompt": f"what colour is {number}?", "chosen": COLOURS[number % 4], "rejected": "no idea at all"})
        for number in range(20)
    ]
    store.put_bytes(PREFERENCES, "\n".join(pairs).encode())
    sha256 = hashlib.sha256(data).hexdigest()
    spec = TrainSpec(
        base_model="baseModels/tiny",
        base_source=str(base),
        base_revision=read_base(str(base)).revision,
        tokenizer_digest=ChatTokenizer.load(base).digest,
        training_dataset=f"tenants/acme/datasets/colours/versions/{sha256}",
        training_sha256=sha256,
        context_length=64,
        lora=Lora(rank=4, alpha=8.0),
        batch_size=8,
        max_steps=6,
        max_evaluation_lines=4,
        learning_rate=1e-2,
        precision="fp32",
    )
    return World(store, spec)


@contextlib.asynccontextmanager
async def serving(work: StartAttemptResponse) -> AsyncIterator[RecordingWorker]:
    worker = RecordingWorker(work)
    await worker.up()
    try:
        yield worker
    finally:
        await worker.down()


@contextlib.asynccontextmanager
async def process(worker: RecordingWorker, ray_address: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        **os.environ,
        **ENVIRONMENT,
        "RAY_ADDRESS": ray_address,
        "TRELLIS_WORKER_ENDPOINT": worker.address,
        "TRELLIS_ATTEMPT_TICKET": TICKET,
    }
    job = await asyncio.create_subprocess_exec(sys.executable, "-m", "trellis_jobs.distributed.main", env=environment)
    try:
        yield job
    finally:
        with contextlib.suppress(ProcessLookupError):
            job.kill()
        await job.wait()


async def run_through(work: StartAttemptResponse, ray_address: str) -> RecordingWorker:
    async with serving(work) as worker, process(worker, ray_address) as job:
        assert await asyncio.wait_for(job.wait(), SECONDS) == 0
        return worker
