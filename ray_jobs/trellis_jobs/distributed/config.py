"""The DeepSpeed config of a run, and what DeepSpeed must be told by other ways. All hard-won settings are here."""

import copy
import json
import warnings
from collections.abc import Mapping
from typing import Any, Final

import torch

from trellis.deepspeed_config import LEFT_OPEN
from trellis.errors import InvalidArgument, Reason
from trellis.spec import TrainSpec
from trellis_jobs.distributed.zero import Layout
from trellis_jobs.failure import JobFailedError

_OURS: Final = ("train_batch_size", "gradient_accumulation_steps", "optimizer", "scheduler", "gradient_clipping")
"""What decides the losses is the spec's: another value would make two runs of one spec differ."""


def prepare_process(threads: int) -> None:
    """Compute with as many threads as CPUs are reserved: the worker's thread has a number of its own."""
    torch.set_num_threads(max(1, threads))


def tame_deepspeed() -> None:
    """Set what can only be set once DeepSpeed is imported."""
    import deepspeed  # noqa: PLC0415  what it finds out at import depends on `prepare_process`

    # Its reduction through shared memory is compiled at first use, for minutes on a busy machine, and knows one node only.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed and torch disagree on the names of collectives; torch says so at each call of each worker.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    deepspeed.utils.logger.setLevel("WARNING")  # else each worker prints its whole config, and more at each step


def deepspeed_config(spec: TrainSpec, layout: Layout, *, bf16: bool, passes: int = 1) -> dict[str, Any]:
    """The config of a run, `spec.distributed.config_json` laid over it. Raises InvalidArgument."""
    zero: dict[str, Any] = {
        "stage": layout.stage,
        # A bucket is a buffer: DeepSpeed's own 500 million elements are 2 GB in fp32, however small the model is.
        "reduce_bucket_size": 50_000_000,
        "allgather_bucket_size": 50_000_000,
        # Without CUDA's streams there is nothing to overlap, and gloo then waits for itself.
        "overlap_comm": torch.cuda.is_available(),
        "contiguous_gradients": True,
    }
    if layout.stage == 3:
        # Small weights, such as norms, stay whole on each worker; they cost a message each otherwise.
        zero["stage3_param_persistence_threshold"] = 100_000
        zero["stage3_max_live_parameters"] = 500_000_000
    if layout.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if layout.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    config: dict[str, Any] = {
        # DeepSpeed's counting of micro-batches is not used: the loop says which pass ends a batch, and the loss of each
        # pass is already its part of the batch's.
        "train_micro_batch_size_per_gpu": passes,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": spec.max_grad_norm,
        "zero_optimization": zero,
        "bf16": {"enabled": bf16},
        # torch's fused AdamW is as fast on a host as DeepSpeed's own, which must be compiled there first and wants CUDA's
        # compiler where there is CUDA.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 30,
    }
    assert spec.distributed is not None
    return _laid_over(config, _given(spec.distributed.config_json))


def refuse_values(config: Mapping[str, Any]) -> None:
    """Have DeepSpeed read the config before anything is loaded. Raises JobFailedError for a value that it does not take."""
    import deepspeed  # noqa: PLC0415  as above

    try:
        deepspeed.DeepSpeedConfig(copy.deepcopy(dict(config)))
    except (ValueError, TypeError, AttributeError, AssertionError, deepspeed.DeepSpeedConfigError) as error:
        said = " ".join(line.strip() for line in str(error).splitlines()[:3]).partition(" [type=")[0]
        raise JobFailedError(Reason.TRAINING_FAILED, f"DeepSpeed does not take its config: {said[:500]}.") from error


def _given(text: str) -> Mapping[str, Any]:
    if not text:
        return {}
    field = "tuning_job.distributed.config_json"
    try:
        given = json.loads(text)
    except ValueError as error:
        raise InvalidArgument.for_field(field, f"The DeepSpeed config is not JSON ({error}).") from None
    if not isinstance(given, dict):
        raise InvalidArgument.for_field(field, "The DeepSpeed config is not a JSON object.")
    for name in _OURS:
        if given.get(name, LEFT_OPEN) != LEFT_OPEN:
            raise InvalidArgument.for_field(field, f"{name} follows from the job's settings; set it there instead.")
    return given


def _laid_over(config: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if value == LEFT_OPEN:
            continue
        kept = config.get(name)
        config[name] = _laid_over(dict(kept), value) if isinstance(kept, dict) and isinstance(value, dict) else value
    return config
