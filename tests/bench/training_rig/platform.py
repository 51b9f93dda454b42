"""Trellis itself: a private stack, and tenants who submit their jobs at once."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import trellis
from tests.bench.private_stack import PrivateStack, private_stack
from tests.bench.training_rig.crowd import Crowd, Ready
from tests.bench.training_rig.tenant import Recipe, Tenant, Tuned

BASE: Final = "trellis-tiny"
_JOB_SECONDS: Final = 1800.0
_ENGINE_SECONDS: Final = 600.0
_POLL_SECONDS: Final = 1.0
_JOBS: Final = 16
"""That a trainer takes when nobody says how many."""


@dataclass
class Platform:
    """A running stack with the tenants that it knows."""

    stack: PrivateStack
    clients: dict[str, trellis.Client] = field(default_factory=dict)
    jobs: dict[str, trellis.TuningJob] = field(default_factory=dict)
    """The last one of each tenant, as it ended."""
    uploaded: set[tuple[str, str]] = field(default_factory=set)
    """Tenants and the datasets that they have."""

    def prepare(self, crowd: Crowd) -> None:
        """Enrol the tenants and upload their lines, which is no part of what is measured."""
        name = _dataset(crowd)
        for tenant, file in zip(crowd.tenants, crowd.files, strict=True):
            if (tenant.name, name) not in self.uploaded:
                client = self._client(tenant)
                client.datasets.upload(file, dataset=name)
                client.datasets.report(name)
                self.uploaded.add((tenant.name, name))

    def await_engine(self) -> None:
        """Wait until the platform's engine, which starts with it, has nothing more to load. Raises Unavailable."""
        deadline = time.monotonic() + _ENGINE_SECONDS
        client = next(iter(self.clients.values()))
        while True:
            try:
                client.generate(f"baseModels/{BASE}", "Hello", max_tokens=1)
            except trellis.TrellisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)
            else:
                return

    def __call__(self, crowd: Crowd) -> Ready:
        """All tenants submit at once; until the last one's adapter is ready. Raises JobFailed."""
        with ThreadPoolExecutor(len(crowd.tenants)) as pool:
            began = time.monotonic()
            jobs = list(pool.map(lambda tenant: self._tune(tenant, crowd), crowd.tenants))
            seconds = time.monotonic() - began
        self.jobs |= {tenant.name: job for tenant, job in zip(crowd.tenants, jobs, strict=True)}
        tuned = [self._tuned(tenant) for tenant in crowd.tenants]
        return Ready(seconds, tuned, crowd.recipe.epochs * crowd.tokens)

    def admission_to_first_step(self, tenant: Tenant) -> float:
        """Seconds from the admission of the tenant's last job until its first step's end, by the events' own times."""
        client, job = self.clients[tenant.name], self.jobs[tenant.name]
        admitted = next(event.time for event in client.jobs.watch(job.name) if event.state == trellis.JobState.STARTING)
        first = next(point.time for point in client.jobs.metrics(job.name) if "train_loss" in point.values)
        assert admitted is not None
        assert first is not None
        return (first - admitted).total_seconds()

    def distributed_rate(self, crowd: Crowd, workers: int) -> float:
        """Tokens a second of the first tenant's job on so many DeepSpeed workers, by its median step."""
        tenant = crowd.tenants[0]
        job = self._tune(tenant, crowd, distributed=trellis.DistributedSpec(workers=workers))
        points = [point.values for point in self.clients[tenant.name].jobs.metrics(job.name)]
        return statistics.median(values["tokens_per_second"] for values in points if "tokens_per_second" in values)

    def close(self) -> None:
        """Hang up."""
        for client in self.clients.values():
            client.close()

    def _tune(self, tenant: Tenant, crowd: Crowd, **options: Any) -> trellis.TuningJob:
        client = self.clients[tenant.name]
        told = settings(tenant, crowd.recipe)
        job = client.jobs.create(_dataset(crowd), base_model=BASE, supervised=told, **options)
        return client.jobs.wait(job.name, timeout=_JOB_SECONDS)

    def _tuned(self, tenant: Tenant) -> Tuned:
        points = self.clients[tenant.name].jobs.metrics(self.jobs[tenant.name].name)
        steps = [point for point in points if "train_loss" in point.values]
        first, last = steps[0].time, steps[-1].time
        assert first is not None
        assert last is not None
        return Tuned([point.values["train_loss"] for point in steps], (last - first).total_seconds())

    def _client(self, tenant: Tenant) -> trellis.Client:
        if tenant.name not in self.clients:
            self.clients[tenant.name] = self.stack.member(tenant.name)
        return self.clients[tenant.name]


def settings(tenant: Tenant, recipe: Recipe) -> trellis.TrainingSettings:
    """What a tenant's job is told: the peers' recipe, and no held-out lines, as the peers have none."""
    return trellis.TrainingSettings(
        lora=trellis.LoraSpec(tenant.rank, tenant.alpha, 0.0, tenant.targets),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        schedule=trellis.LearningRateSchedule.LINEAR,
        warmup_ratio=0.0,
        weight_decay=0.0,
        max_grad_norm=recipe.max_grad_norm,
        precision=trellis.Precision.FP32,
        seed=tenant.seed,
        held_out_fraction=0.0,
        max_evaluation_lines=0,
    )


@contextmanager
def fresh_platform(say: Callable[[str], None], crowds: Sequence[Crowd], threads: int) -> Iterator[Platform]:
    """A stack that has never trained anything, with these crowds' data in it. Raises StackError.

    Its trainer has so many threads, and room for every tenant at once.
    """
    most = max(len(crowd.tenants) for crowd in crowds)
    told = {"TRELLIS_TRAINER_CPUS": str(threads), "TRELLIS_TRAINER_MAX_JOBS": str(max(most, _JOBS))}
    with private_stack(say, told) as stack:
        platform = Platform(stack)
        try:
            for crowd in crowds:
                platform.prepare(crowd)
            platform.await_engine()
            yield platform
        finally:
            platform.close()


def _dataset(crowd: Crowd) -> str:
    return f"{crowd.lengths.name}-{crowd.lines}"
