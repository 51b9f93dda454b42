"""How a job is trained, on the wire: its method, what runs it, and which of its settings rules chose."""

from typing import Any

from trellis.errors import InvalidArgument
from trellis.server.rpc.convert.training_settings import chosen_lora, chosen_settings, training_settings
from trellis.spec import Distributed, Preference, TrainSpec
from trellis.v1 import tuning_job_pb2 as pb

_LOSSES = {pb.PreferenceSpec.LOSS_DPO: "dpo", pb.PreferenceSpec.LOSS_ORPO: "orpo"}
_OFFLOADS = {
    pb.DistributedSpec.OFFLOAD_NONE: "none",
    pb.DistributedSpec.OFFLOAD_OPTIMIZER: "optimizer",
    pb.DistributedSpec.OFFLOAD_ALL: "all",
}
_LOSS_NUMBERS = {name: number for number, name in _LOSSES.items()}
_OFFLOAD_NUMBERS = {name: number for number, name in _OFFLOADS.items()}


def chosen_method(job: pb.TuningJob) -> dict[str, Any]:
    """The fields of NewTuningJob about how the job is trained."""
    method = job.WhichOneof("method") or "supervised"
    settings = job.supervised if method == "supervised" else getattr(job, method).training
    chosen = {"method": method, "settings": chosen_settings(settings), "lora": chosen_lora(settings.lora)}
    if method == "preference":
        chosen["preference"] = _chosen_preference(job.preference)
    if job.HasField("distributed"):
        chosen["distributed"] = _chosen_distributed(job.distributed)
    return chosen


def method_fields(spec: TrainSpec) -> dict[str, Any]:
    """The fields of the wire's TuningJob about how the job is trained."""
    settings = training_settings(spec)
    rules = [pb.TuningJob.ResolvedSetting(field=one.field, value=one.value, rule=one.rule) for one in spec.resolved]
    alone = spec.distributed is not None
    fields: dict[str, Any] = {
        "distributed": None if spec.distributed is None else _distributed(spec.distributed),
        "placement": pb.TuningJob.PLACEMENT_DISTRIBUTED if alone else pb.TuningJob.PLACEMENT_SHARED,
        "resolved_settings": rules,
    }
    if spec.method == "supervised":
        return {**fields, "supervised": settings}
    if spec.method == "pretraining":
        return {**fields, "pretraining": pb.PretrainingSpec(training=settings)}
    return {**fields, "preference": _preference(spec.preference, settings)}


def _chosen_preference(message: pb.PreferenceSpec) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    if message.loss in _LOSSES:
        chosen["loss"] = _LOSSES[message.loss]
    elif message.loss:
        known = "There is no such loss; give LOSS_DPO or LOSS_ORPO."
        raise InvalidArgument.for_field("tuning_job.preference.loss", known)
    if message.HasField("beta"):
        chosen["beta"] = message.beta
    if message.HasField("label_smoothing"):
        chosen["label_smoothing"] = message.label_smoothing
    if message.reference_free:
        chosen["reference_free"] = True
    return chosen


def _preference(value: Preference, settings: pb.TrainingSettings) -> pb.PreferenceSpec:
    dpo = value.loss == "dpo"
    return pb.PreferenceSpec(
        training=settings,
        loss=_LOSS_NUMBERS[value.loss],
        beta=value.beta,
        label_smoothing=value.label_smoothing if dpo else None,
        reference_free=value.reference_free,
    )


def _chosen_distributed(message: pb.DistributedSpec) -> dict[str, Any]:
    optional = ("workers", "zero_stage", "gradient_checkpointing")
    chosen = {field: getattr(message, field) for field in optional if message.HasField(field)}  # type: ignore[arg-type]
    if message.offload in _OFFLOADS:
        chosen["offload"] = _OFFLOADS[message.offload]
    return {**chosen, "config_json": message.config_json}


def _distributed(value: Distributed) -> pb.DistributedSpec:
    return pb.DistributedSpec(
        workers=value.workers,
        zero_stage=value.zero_stage,
        offload=_OFFLOAD_NUMBERS.get(value.offload, pb.DistributedSpec.OFFLOAD_UNSPECIFIED),
        gradient_checkpointing=value.gradient_checkpointing,
        config_json=value.config_json,
    )
