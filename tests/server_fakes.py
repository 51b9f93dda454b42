"""The control plane around a real store: a clock and ids that a test moves, engines by script, and a worker's deeds."""

import hashlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors.numpy import save_file

from tests.engine_host_fake import FakeEngineHost
from trellis.artifacts import ADAPTER_FILES, MANIFEST_FILE, Manifest, file_facts
from trellis.bases import BaseFacts, read_base
from trellis.formats import FileFormat
from trellis.objects import ObjectStore
from trellis.reports import DatasetReport, build_report
from trellis.server.app.attempts import Assignment
from trellis.server.app.authentication import authenticate, secret_hash
from trellis.server.app.base_models import NewBaseModel, create_base_model
from trellis.server.app.context import AppSettings, Context
from trellis.server.app.idempotency import RequestKey
from trellis.server.app.job_request import NewTuningJob
from trellis.server.app.ledger_reading import Sums
from trellis.server.app.ports import Claim, UnitOfWorkFactory
from trellis.server.app.submission import create_tuning_job
from trellis.server.app.tenants import create_tenant
from trellis.server.app.uploads import NewVersion, upload_dataset_version
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import Caller, Role
from trellis.server.domain.dataset import DatasetVersion, ReportState, VersionState
from trellis.server.domain.tuning_job import Attempt, EventLevel, JobEvent, JobState, TuningJob
from trellis.spec import TrainSpec
from trellis.tokens import ChatTokenizer

TINY = Path(__file__).resolve().parents[1] / "services/trellis/base_models/trellis-tiny"
LINES = b"".join(
    json.dumps(
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": str(n)}]}
    ).encode()
    + b"\n"
    for n in range(20)
)
ADMIN = Caller(Role.ADMIN, None, "admin")
T = TypeVar("T")


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class CountingIds:
    """Ids that can be told apart, and foretold."""

    def __init__(self) -> None:
        self._count = 0

    def new_id(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}-{self._count:06d}"

    def new_secret(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}_{hashlib.sha256(str(self._count).encode()).hexdigest()}"


@dataclass(slots=True)
class Waiter:
    """Runs a step of the test's each time that somebody waits; no time passes."""

    count: int = 0
    steps: list[object] = field(default_factory=list)

    async def __call__(self) -> None:
        self.count += 1
        if self.count > 1000:
            raise AssertionError("waited for something that never comes")
        if self.steps:
            await self.steps.pop(0)()  # type: ignore[operator]


@dataclass(frozen=True, slots=True)
class World:
    """A context, and the fakes in it."""

    context: Context
    clock: FakeClock
    waiter: Waiter
    engines: FakeEngineHost

    @property
    def store(self) -> ObjectStore:
        return self.context.store

    def member(self, tenant: str) -> Caller:
        return Caller(Role.MEMBER, tenant, f"member-{tenant}")


def make_world(units: UnitOfWorkFactory, folder: Path, settings: AppSettings | None = None) -> World:
    clock, waiter, engines = FakeClock(), Waiter(), FakeEngineHost()
    store = ObjectStore.open(str(folder / "objects"))
    context = Context(units, clock, CountingIds(), store, engines, waiter, settings or AppSettings())
    return World(context, clock, waiter, engines)


async def prepare(context: Context, *tenants: str) -> BaseModel:
    """Tenants, and the tiny base as the default."""
    for tenant in tenants:
        await create_tenant(context, tenant, "", RequestKey())
    return await create_base_model(context, NewBaseModel("tiny", "Tiny", str(TINY)), RequestKey())


async def chunked(data: bytes, size: int = 1 << 20) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def announced(tenant: str, data: bytes, dataset: str = "questions", **changes: object) -> NewVersion:
    sha256 = hashlib.sha256(data).hexdigest()
    new = NewVersion(f"tenants/{tenant}/datasets/{dataset}", "q.jsonl", len(data), sha256, allow_missing=True)
    return replace(new, **changes)  # type: ignore[arg-type]


async def upload(context: Context, tenant: str, data: bytes = LINES, dataset: str = "questions") -> DatasetVersion:
    return await upload_dataset_version(context, announced(tenant, data, dataset), chunked(data))


async def validate(context: Context, version: DatasetVersion, base: BaseModel) -> DatasetReport:
    """What the validation loop does."""
    with context.store.open_read(version.key) as stream:
        tokenizer = ChatTokenizer.load(TINY)
        found = build_report(
            stream, FileFormat(version.file_format), tokenizer=tokenizer, context_length=base.context_length
        )
    key = f"{version.key.rpartition('/')[0]}/reports/{base.base_model_id}.json"
    context.store.put_bytes(key, found.to_json().encode())
    claim = Claim(context.ids.new_secret("claim"), context.now() + timedelta(minutes=1))
    async with context.units() as unit:
        report = await unit.datasets.claim_report(claim, context.now())
        assert report is not None
        done = replace(
            report,
            state=ReportState.DONE,
            key=key,
            valid=found.valid,
            trainable_token_count=found.trainable_tokens or 0,
            token_count=found.tokens or 0,
            summary=found.summary,
        )
        assert await unit.datasets.save_report(done, claim)
        state = VersionState.READY if found.valid else VersionState.INVALID
        kind = str(found.kind.value) if found.kind else ""
        checked = replace(version, state=state, kind=kind, line_count=found.lines, summary=found.summary)
        await unit.datasets.save_version(checked)
        await unit.commit()
    return found


async def submit(context: Context, tenant: str, **changes: object) -> TuningJob:
    new = NewTuningJob(f"tenants/{tenant}", f"tenants/{tenant}/datasets/questions", **changes)  # type: ignore[arg-type]
    return await create_tuning_job(context, Caller(Role.MEMBER, tenant, "key"), new, RequestKey())


async def admit(context: Context, job: TuningJob) -> tuple[str, Caller]:
    """What the admission does: the job STARTING, with a fresh attempt; its token, and who it makes the caller."""
    token = context.ids.new_secret("tra")
    async with context.units() as unit:
        present = await unit.jobs.get_by_uid(job.uid, for_update=True)
        assert present is not None
        number = present.attempt_count + 1
        now = context.now()
        attempt = Attempt(
            job.tenant,
            job.uid,
            number,
            secret_hash(token),
            f"run-{job.uid}-{number}",
            now,
            now + timedelta(minutes=5),
            accelerators=2.0,
        )
        started = replace(present.moved(JobState.STARTING, now), attempt_count=number)
        await unit.jobs.save(started, [JobEvent(now, EventLevel.INFO, "Admitted.", state=JobState.STARTING)])
        await unit.jobs.add_attempt(attempt)
        await unit.commit()
    return token, await authenticate(context, f"Bearer {token}")


async def used(context: Context, tenant: str) -> Sums:
    """All that the ledger says that the tenant has used."""
    async with context.units(write=False) as unit:
        sums = await unit.ledger.settled_since([tenant], datetime.min.replace(tzinfo=UTC))
    return sums.get(tenant, {})


def write_adapter(folder: Path, facts: BaseFacts, *, scale: float = 0.1, rank: int = 2) -> Path:
    """A small PEFT adapter, on the query projections only."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    tensors = {}
    for module, (outputs, inputs) in facts.linear_shapes.items():
        if module.endswith("q_proj"):
            name = f"base_model.model.{module}"
            tensors[f"{name}.lora_A.weight"] = rng.normal(size=(rank, inputs)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = (rng.normal(size=(outputs, rank)) * scale).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def lay_adapter(context: Context, work: Assignment, folder: Path, **changes: object) -> str:
    """What a worker leaves in the object store; the manifest's digest."""
    spec = TrainSpec.from_json(work.train_spec_json)
    write_adapter(folder, read_base(spec.base_source))
    manifest = Manifest(
        base_model=spec.base_model,
        base_revision=spec.base_revision,
        tokenizer_digest=spec.tokenizer_digest,
        dataset_version=spec.training_dataset,
        dataset_sha256=spec.training_sha256,
        spec=json.loads(spec.to_json()),
        tuning_job=work.tuning_job,
        files={name: file_facts(folder / name) for name in ADAPTER_FILES},
    )
    manifest = replace(manifest, **changes)  # type: ignore[arg-type]
    for name in ADAPTER_FILES:
        context.store.put_file(f"{work.adapter_prefix}/{name}", folder / name)
    context.store.put_bytes(f"{work.adapter_prefix}/{MANIFEST_FILE}", manifest.to_json())
    return manifest.digest


async def collected(items: AsyncIterator[T]) -> list[T]:
    return [item async for item in items]


def keys(store: ObjectStore) -> Iterable[str]:
    return [found.key for found in store.list("tenants")]
