"""Every job ended lawfully, and the same work gave the same adapter whatever happened on the way."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import trellis
from tests.chaos.checks.kept import hashes_of
from tests.chaos.diary import Diary, Submitted
from tests.chaos.load import RECIPES, Tenant
from trellis.client.types import JobEvent, JobState, MetricPoint, TuningJob
from trellis.errors import Reason
from trellis.server.domain.tuning_job import MOVES, JobState as State

_BY_FAULTS = frozenset({Reason.ATTEMPTS_EXHAUSTED})
"""Why a job may fail when nothing is wrong with its data: the infrastructure failed it too often."""


async def job_faults(diary: Diary, tenants: list[Tenant]) -> list[str]:
    """In sentences."""
    wrong: list[str] = []
    made: dict[tuple[str, str], dict[Result, list[str]]] = defaultdict(lambda: defaultdict(list))
    for tenant in tenants:
        listed = [job async for job in tenant.client.jobs.list()]
        asked = {job.title: job for job in diary.jobs if job.tenant == tenant.name}
        wrong += _single(listed, asked)
        for job in listed:
            submitted = asked.get(job.display_name)
            if submitted is None:
                wrong.append(f"{job.name} is there and nobody asked for it")
                continue
            found = await _one_job(tenant, job, submitted)
            wrong += [f"{job.name}: {each}" for each in found]
            if job.state is JobState.SUCCEEDED and not found:
                result = await _result(tenant, job)
                made[tenant.name, submitted.recipe][result].append(job.name)
    for (tenant_name, recipe), results in made.items():
        if len(results) > 1:
            client = next(tenant.client for tenant in tenants if tenant.name == tenant_name)
            told = await _differences(client, results)
            wrong.append(f"{tenant_name}'s recipe {recipe} gave {len(results)} results:\n    {told}")
    return wrong


def _single(listed: Sequence[TuningJob], asked: dict[str, Submitted]) -> list[str]:
    by_title: dict[str, list[str]] = defaultdict(list)
    for job in listed:
        by_title[job.display_name].append(job.name)
    wrong = [f"one submit made {len(names)} jobs: {names}" for names in by_title.values() if len(names) > 1]
    acknowledged = [(title, submitted.name) for title, submitted in asked.items() if submitted.name]
    lost = [name for title, name in acknowledged if name not in by_title[title]]
    return wrong + [f"{name} was acknowledged and is not there" for name in lost]


async def _one_job(tenant: Tenant, job: TuningJob, submitted: Submitted) -> list[str]:
    events = [event async for event in tenant.client.jobs.watch(job.name, timeout=60)]
    wrong = _event_faults(events)
    if submitted.events and [e.sequence for e in submitted.events] != list(range(1, len(submitted.events) + 1)):
        wrong.append("who watched it heard events with a gap or twice")
    if submitted.events != events[: len(submitted.events)]:
        wrong.append("who watched it heard other events than there are now")
    if job.state is JobState.FAILED and (job.error is None or job.error.reason not in _BY_FAULTS):
        wrong.append(f"it failed by no fault of ours: {job.error}")
    if job.state is JobState.CANCELLED and not submitted.cancelled:
        wrong.append("it was cancelled and nobody asked for that")
    if job.state is JobState.SUCCEEDED:
        wrong += await _success_faults(tenant, job, submitted)
    return wrong


def _event_faults(events: Sequence[JobEvent]) -> list[str]:
    wrong = []
    if [event.sequence for event in events] != list(range(1, len(events) + 1)):
        wrong.append("its events have a gap")
    states = [State(event.state.value) for event in events if event.state]
    if not states or states[0] is not State.QUEUED:
        wrong.append("it does not begin as QUEUED")
    wrong += [f"it went from {a} to {b}" for a, b in pairwise(states) if b not in MOVES[a]]
    if not states or MOVES[states[-1]]:
        wrong.append(f"its events end at {states[-1:]}")
    return wrong


async def _success_faults(tenant: Tenant, job: TuningJob, submitted: Submitted) -> list[str]:
    points = [point async for point in tenant.client.jobs.metrics(job.name) if "train_loss" in point.values]
    steps = [point.step for point in points]
    wanted = list(range(1, (RECIPES[submitted.recipe].max_steps or 0) + 1))
    wrong = [] if steps == wanted else [f"it has measurements of the steps {steps}, not of 1 to {len(wanted)}"]
    if not job.adapter:
        wrong.append("it succeeded without an adapter")
    return wrong


@dataclass(frozen=True, slots=True)
class Result:
    """What the same recipe on the same data gives each time, to the last bit."""

    losses: tuple[float, ...]
    files: tuple[tuple[str, str], ...]
    """The adapter's, each with its hash."""

    @classmethod
    def of(cls, points: Sequence[MetricPoint], manifest: Mapping[str, Any]) -> Self:
        """From what was measured at the steps, and the adapter's manifest."""
        return cls(tuple(point.values["train_loss"] for point in points), tuple(hashes_of(manifest).items()))

    def unlike(self, usual: Self) -> str:
        """Where it parts from another."""
        both = enumerate(zip(self.losses, usual.losses, strict=True), 1)
        losses = next((f"from step {n} on: {a!r} and not {b!r}" for n, (a, b) in both if a != b), "nowhere")
        files = [name for name, sha256 in self.files if dict(usual.files).get(name) != sha256]
        return f"its losses are others {losses}; other files: {', '.join(files) or 'none'}"


async def _result(tenant: Tenant, job: TuningJob) -> Result:
    points = [point async for point in tenant.client.jobs.metrics(job.name) if "train_loss" in point.values]
    adapter = await tenant.client.adapters.get(job.adapter)
    assert adapter.manifest is not None
    return Result.of(points, adapter.manifest)


async def _differences(client: trellis.AsyncClient, results: Mapping[Result, Sequence[str]]) -> str:
    """Where results part, and what happened to each job."""
    lines = []
    usual = max(results, key=lambda result: len(results[result]))
    for result, names in results.items():
        for name in names:
            events = [event async for event in client.jobs.watch(name, timeout=60)]
            said = " ".join(event.message for event in events if "attempt" in event.message.lower() or event.state)
            lines.append(f"{name}: {result.unlike(usual)}; {said}")
    return "\n    ".join(lines)
