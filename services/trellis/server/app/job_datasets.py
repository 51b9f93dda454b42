"""The datasets that a job reads: present, reported on without errors, and of a kind that its method learns from."""

from dataclasses import dataclass, replace

from trellis.errors import NotFound, Reason, error_for
from trellis.formats import Kind
from trellis.names import LATEST, DatasetVersionName
from trellis.server.app.context import Context
from trellis.server.app.datasets import present_version
from trellis.server.app.job_request import JobNames
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.reports import ensure_report
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.dataset import DatasetVersion, Report, ReportState
from trellis.spec import Method, TrainSpec

_ANSWERS = frozenset({Kind.CHAT, Kind.COMPLETION, Kind.TEXT})
_LEARNT: dict[Method, frozenset[Kind]] = {
    "supervised": _ANSWERS,
    "preference": frozenset({Kind.PREFERENCE}),
    "pretraining": frozenset({Kind.TEXT}),
}
_REPLAYED: dict[Method, frozenset[Kind]] = {**_LEARNT, "pretraining": _ANSWERS}
_METHODS: dict[Method, str] = {
    "supervised": "supervised tuning",
    "preference": "preference tuning",
    "pretraining": "pre-training",
}
_KINDS = {
    Kind.CHAT: "conversations",
    Kind.COMPLETION: "prompts with completions",
    Kind.TEXT: "plain text",
    Kind.PREFERENCE: "preferences",
}


_Usable = tuple[DatasetVersion, Report]


@dataclass(frozen=True, slots=True)
class JobDatasets:
    """The spec with its datasets, the training data's version and report, and whether some report is still to come."""

    spec: TrainSpec
    version: DatasetVersion
    report: Report
    waits: bool


async def with_datasets(
    context: Context, unit: UnitOfWork, spec: TrainSpec, names: JobNames, base: BaseModel
) -> JobDatasets:
    """The spec with the versions that the names mean. Raises NotFound, and DATASET_INVALID for what can't be learnt."""
    waits = False
    found: dict[str, _Usable] = {}
    named = {"training": names.training, "validation": names.validation, "replay": names.replay}
    for part, name in named.items():
        if name is None:
            continue
        version, report = found[part] = await _usable_version(context, unit, name, base)
        _check_kind(version, spec.method, part)
        waits = waits or report.state is ReportState.PENDING
        facts = {"dataset": version.name, "sha256": version.sha256, "format": version.file_format}
        spec = replace(spec, **{f"{part}_{field}": value for field, value in facts.items()})  # type: ignore[arg-type]
    return JobDatasets(spec, *found["training"], waits)


async def _usable_version(context: Context, unit: UnitOfWork, name: DatasetVersionName, base: BaseModel) -> _Usable:
    """The version, and its report for this base model, done or to be made; refuses one that has errors."""
    version, report = await _locked_version(context, unit, name, base)
    if report.state is ReportState.PENDING:
        return version, report
    if report.state is ReportState.FAILED or not report.valid:
        message = f"{version.name} can't be trained on with {base.name}: {report.summary}"
        details = {"dataset_version": version.name, "base_model": base.name}
        raise error_for(Reason.DATASET_INVALID, message, metadata=details)
    return version, report


async def _locked_version(context: Context, unit: UnitOfWork, name: DatasetVersionName, base: BaseModel) -> _Usable:
    """Locked: a dataset that is being deleted shall not get a new reader."""
    sha256 = None if name.version == LATEST else name.version
    found = await unit.datasets.read_on(name.tenant, name.dataset, sha256, base.name)
    if found is None:
        if await unit.datasets.get(name.tenant, name.dataset, for_update=True) is None:
            raise NotFound.for_resource(name.dataset_name)
        found = await present_version(unit, name), None
    version, report = found
    if report is None or report.state is ReportState.FAILED:
        report = await ensure_report(context, unit, version, base.name)
    return version, report


def _check_kind(version: DatasetVersion, method: Method, part: str) -> None:
    obstacle = kind_obstacle(version, method, replayed=part == "replay")
    if obstacle:
        field = f"tuning_job.{part}_dataset"
        details = {"dataset_version": version.name, "field": field}
        raise error_for(Reason.DATASET_INVALID, f"{field}: {obstacle}", metadata=details)


def kind_obstacle(version: DatasetVersion, method: Method, *, replayed: bool) -> str:
    """Why the method can't learn from the version's lines, as a sentence; empty if it can, or if they are not read yet."""
    fitting = (_REPLAYED if replayed else _LEARNT)[method]
    if not version.kind or Kind(version.kind) in fitting:
        return ""
    kind = Kind(version.kind)
    others = [_METHODS[other] for other, kinds in _LEARNT.items() if kind in kinds]
    wanted = " or ".join(_KINDS[one] for one in Kind if one in fitting)
    return (
        f"{version.name} has {_KINDS[kind]}, which {_METHODS[method]} can't learn from. "
        f"Give it {wanted}, or choose {' or '.join(others)}."
    )
