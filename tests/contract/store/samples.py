"""Things to store."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from trellis.server.app.ports import Claim, UnitOfWorkFactory
from trellis.server.domain.adapter import Adapter
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import ApiKey, Role
from trellis.server.domain.dataset import Dataset, DatasetVersion, Report, ReportState, VersionState
from trellis.server.domain.tenant import Tenant
from trellis.server.domain.trainer import Trainer, TrainerState
from trellis.server.domain.tuning_job import Attempt, TuningJob
from trellis.spec import Distributed, TrainSpec

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
SHA = "a" * 64


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def claim(token: str, seconds: float = 60) -> Claim:
    return Claim(token, at(seconds))


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def tenant(tenant_id: str = "acme", seconds: float = 0) -> Tenant:
    return Tenant(tenant_id, tenant_id.title(), at(seconds))


def key(key_id: str = "key-1", of: str | None = "acme", seconds: float = 0) -> ApiKey:
    hashed = hashlib.sha256(key_id.encode()).hexdigest()
    return ApiKey(key_id, of, Role.MEMBER, "A key", "trk_abc", hashed, at(seconds))


def base(base_model_id: str = "tiny", *, is_default: bool = False, seconds: float = 0) -> BaseModel:
    return BaseModel(
        base_model_id,
        "Tiny",
        "/models/tiny",
        "r1",
        "llama",
        512,
        5_000_000_000,
        4096,
        SHA,
        True,
        is_default,
        at(seconds),
    )


def dataset(dataset_id: str = "faq", of: str = "acme", seconds: float = 0) -> Dataset:
    return Dataset(of, dataset_id, "FAQ", at(seconds), at(seconds))


def version(sha256: str = SHA, dataset_id: str = "faq", seconds: float = 0) -> DatasetVersion:
    return DatasetVersion(
        "acme", dataset_id, sha256, VersionState.VALIDATING, "faq.jsonl", "jsonl", 5 * 2**30, "k", "baseModels/tiny",
        at(seconds),
    )  # fmt: skip


def report(sha256: str = SHA, base_model: str = "baseModels/tiny", seconds: float = 0) -> Report:
    return Report("acme", "faq", sha256, base_model, ReportState.PENDING, at(seconds))


def spec(dataset_id: str = "faq", of: str = "acme", **changes: Any) -> TrainSpec:
    name = f"tenants/{of}/datasets/{dataset_id}/versions/{SHA}"
    plain = TrainSpec("baseModels/tiny", "/models/tiny", "r1", SHA, name, SHA, 512)
    return replace(plain, **changes)


def job(number: int = 1, of: str = "acme", seconds: float | None = None, **changes: Any) -> TuningJob:
    time = at(number if seconds is None else seconds)
    plain = TuningJob(of, f"job-{number}", f"uid-{of}-{number}", "A job", spec(of=of), time, time)
    return replace(plain, **changes)


def alone(number: int = 1, of: str = "acme", **changes: Any) -> TuningJob:
    """A job that runs by itself, and not on a shared trainer."""
    return job(number, of, spec=spec(of=of, distributed=Distributed()), **changes)


def attempt(uid: str = "uid-acme-1", number: int = 1, seconds: float = 0, **changes: Any) -> Attempt:
    hashed = hashlib.sha256(f"{uid} {number}".encode()).hexdigest()
    plain = Attempt("acme", uid, number, hashed, f"trellis-x-{uid}-{number}", at(seconds), at(seconds + 30))
    return replace(plain, **changes)


def trainer(uid: str = "trainer-1", seconds: float = 0, **changes: Any) -> Trainer:
    hashed = hashlib.sha256(uid.encode()).hexdigest()
    plain = Trainer(
        uid, "baseModels/tiny", "/models/tiny", "r1", SHA, "auto", TrainerState.STARTING, hashed, f"trellis-x-{uid}",
        1.0, 0.0, 1, at(seconds), at(seconds + 30),
    )  # fmt: skip
    return replace(plain, **changes)


def adapter(number: int = 1, of: str = "acme", seconds: float | None = None, **changes: Any) -> Adapter:
    time = at(number if seconds is None else seconds)
    plain = Adapter(
        of, digest(number), "An adapter", "baseModels/tiny", "", 8, ("q_proj", "v_proj"), 1024, "k", "{}", time
    )
    return replace(plain, **changes)


async def seed(units: UnitOfWorkFactory, *jobs: TuningJob) -> None:
    """A tenant, a base model, a dataset with a version, and these jobs."""
    async with units() as unit:
        await unit.tenants.add(tenant())
        await unit.base_models.add(base(is_default=True))
        await unit.datasets.add(dataset())
        await unit.datasets.add_version(version())
        for each in jobs:
            await unit.jobs.add(each)
        await unit.commit()
