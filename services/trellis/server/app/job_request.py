"""What a caller asks for when submitting a tuning job, and the names in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from trellis.errors import InvalidArgument
from trellis.names import AdapterName, AliasName, CheckpointName, DatasetName, DatasetVersionName, TenantName
from trellis.server.app.fields import Violations
from trellis.server.domain.quota import Quota
from trellis.spec import Method

LEAST_PRIORITY: Final = -100
MOST_PRIORITY: Final = 100

StartName = AdapterName | AliasName | CheckpointName
"""What a job may start from."""


@dataclass(frozen=True, slots=True)
class NewTuningJob:
    """A job to submit; the mappings hold the fields that the request sets of TrainSpec and of its parts."""

    parent: str
    training_dataset: str
    job_id: str = ""
    display_name: str = ""
    base_model: str = ""
    validation_dataset: str = ""
    replay_dataset: str = ""
    initial_adapter: str = ""
    alias: str = ""
    deploy: bool = False
    priority: int = 0
    method: Method = "supervised"
    settings: Mapping[str, Any] | None = None
    lora: Mapping[str, Any] | None = None
    preference: Mapping[str, Any] | None = None
    distributed: Mapping[str, Any] | None = None
    """Empty for a run by itself in which everything is decided by rules; None where it was not asked for."""


@dataclass(frozen=True, slots=True)
class JobNames:
    """The names, taken apart."""

    tenant: str
    training: DatasetVersionName
    validation: DatasetVersionName | None
    replay: DatasetVersionName | None
    start: StartName | None
    alias_id: str


def check_priority(new: NewTuningJob, violations: Violations) -> None:
    """Note a priority that no job may have."""
    if not LEAST_PRIORITY <= new.priority <= MOST_PRIORITY:
        description = f"{new.priority} is not between {LEAST_PRIORITY} and {MOST_PRIORITY}."
        violations.add("tuning_job.priority", description)


def require_priority(new: NewTuningJob, quota: Quota) -> None:
    """Raise InvalidArgument for a priority beyond what the tenant's quota allows its jobs."""
    highest = quota.highest_priority
    if new.priority > max(highest, 0):
        description = (
            f"{new.priority} is more than {highest}, the highest that the quota of {new.parent} allows its jobs."
        )
        raise InvalidArgument.for_field("tuning_job.priority", description)


def read_names(new: NewTuningJob, violations: Violations) -> JobNames | None:
    """The names of the request, all of one tenant; None where something is wrong, which is noted."""
    tenant = violations.name(TenantName, new.parent, "parent")
    if new.job_id:
        violations.id("tuning_job", new.job_id, "tuning_job_id")
    training = _dataset(new.training_dataset, "training_dataset", violations)
    validation = _dataset(new.validation_dataset, "validation_dataset", violations) if new.validation_dataset else None
    replay = _dataset(new.replay_dataset, "replay_dataset", violations) if new.replay_dataset else None
    start = None
    if new.initial_adapter:
        start = violations.name(start_kind(new.initial_adapter), new.initial_adapter, "tuning_job.initial_adapter")
    alias = violations.name(AliasName, new.alias, "tuning_job.alias") if new.alias else None
    if tenant is None:
        return None
    named = {"training_dataset": training, "validation_dataset": validation, "replay_dataset": replay}
    for field, name in {**named, "initial_adapter": start, "alias": alias}.items():
        if name is not None and name.tenant != tenant.tenant:
            violations.add(f"tuning_job.{field}", f"{name} is not one of {new.parent}.")
    if (new.settings or {}).get("full"):
        _refuse_serving(new, violations)
    if training is None:
        return None
    return JobNames(tenant.tenant, training, validation, replay, start, alias.alias if alias else "")


def _refuse_serving(new: NewTuningJob, violations: Violations) -> None:
    """A job that trains all weights makes no adapter that could be called."""
    way = "A job that trains all weights makes an export, not an adapter: register its folder as a base model."
    for field in ("alias", "deploy"):
        if getattr(new, field):
            violations.add(f"tuning_job.{field}", way)


def _dataset(name: str, field: str, violations: Violations) -> DatasetVersionName | None:
    field = f"tuning_job.{field}"
    if "/versions/" in name:
        return violations.name(DatasetVersionName, name, field)
    dataset = violations.name(DatasetName, name, field)
    return DatasetVersionName(dataset.tenant, dataset.dataset, "latest") if dataset else None


def start_kind(name: str) -> type[StartName]:
    """What a name of something to start from is, by its form."""
    if "/aliases/" in name:
        return AliasName
    return CheckpointName if "/tuningJobs/" in name else AdapterName
