"""Whether the datasets of queued jobs are there to be trained on."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from trellis.names import DatasetVersionName
from trellis.server.app.job_datasets import kind_obstacle
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.queue_ports import Reading, ReportedVersion
from trellis.server.domain.dataset import ReportState
from trellis.server.domain.tuning_job import TuningJob
from trellis.spec import TrainSpec

_READINGS = 65_536


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether all of a job's reports are there, and a sentence on what forbids training, empty if nothing does."""

    ready: bool
    obstacle: str = ""


_READY = Readiness(ready=True)


class JobDatasetsWatch:
    """Looks up the reports on what queued jobs read, all at once. What was found valid stays so while a job reads it, so that
    a job that was ready is not looked at again."""

    def __init__(self) -> None:
        self._valid: dict[Reading, ReportedVersion] = {}
        self._ready: set[str] = set()

    def forget(self) -> None:
        """The queue is empty: what its jobs read may be deleted now."""
        self._valid.clear()
        self._ready.clear()

    async def look(self, unit: UnitOfWork, jobs: Sequence[TuningJob]) -> Mapping[str, Readiness]:
        """Of each job, by uid."""
        self._ready &= {job.uid for job in jobs}
        unknown = [job for job in jobs if job.uid not in self._ready]
        wanted = {reading for job in unknown for _, reading, _ in _readings(job.spec)}
        self._valid = {reading: found for reading, found in self._valid.items() if reading in wanted}
        found = await unit.queue.reports([reading for reading in wanted if reading not in self._valid])
        self._valid |= {reading: one for reading, one in found.items() if _is_valid(one)}
        known = {**found, **self._valid}
        judged = {job.uid: _judged(job.spec, known) for job in unknown}
        self._ready |= {uid for uid, readiness in judged.items() if readiness == _READY}
        return {job.uid: judged.get(job.uid, _READY) for job in jobs}


def _judged(spec: TrainSpec, known: Mapping[Reading, ReportedVersion]) -> Readiness:
    ready = True
    for dataset, reading, replayed in _readings(spec):
        found = known.get(reading)
        if found is None:
            return Readiness(True, f"{dataset} is gone.")
        report = found.report
        if report.state is ReportState.PENDING:
            ready = False
        elif report.state is ReportState.FAILED or not report.valid:
            return Readiness(True, f"{dataset} can't be trained on: {report.summary} Its report says more.")
        elif obstacle := kind_obstacle(found.version, spec.method, replayed=replayed):
            return Readiness(True, obstacle)
    return Readiness(ready)


def _is_valid(found: ReportedVersion) -> bool:
    return found.report.state is ReportState.DONE and found.report.valid


def _readings(spec: TrainSpec) -> Iterator[tuple[str, Reading, bool]]:
    """The version's name, what is read, and whether it is replayed."""
    named: Iterable[tuple[str, bool]] = (
        (spec.training_dataset, False),
        (spec.validation_dataset, False),
        (spec.replay_dataset, True),
    )
    return ((dataset, _reading(dataset, spec.base_model), replayed) for dataset, replayed in named if dataset)


@functools.lru_cache(_READINGS)
def _reading(dataset: str, base_model: str) -> Reading:
    name = DatasetVersionName.parse(dataset)
    return Reading(name.tenant, name.dataset, name.version, base_model)
