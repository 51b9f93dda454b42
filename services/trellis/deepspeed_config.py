"""What a DeepSpeed config may say. DeepSpeed ignores most names that it does not know without a word, so they are known here.

The names are those of DeepSpeed 0.19; the server has none to ask, so a test of the jobs holds them against the installed one.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Final

LEFT_OPEN: Final = "auto"
"""As a value, what transformers' Trainer would fill in: as if the key were not there."""
_SHOWN: Final = 100
"""So many letters of a key are said."""

DECIDED_KEYS: Final = frozenset(
    {
        *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
        *("managed_gradient_accumulation", "gradient_clipping", "gradient_allreduce_op"),
        *("optimizer", "scheduler", "bf16", "bfloat16", "fp16", "amp", "torch_autocast"),
        "zero_optimization.compute_grad_norm",
    }
)
"""What the job's own settings decide, and its losses with them. Clipping needs the gradients' norm in every step."""

UNUSED_KEYS: Final = frozenset(
    {
        *("autotuning", "data_efficiency", "expert_parallel", "hybrid_engine", "pipeline", "tensor_parallel"),
        *("use_data_before_expert_parallelism", "weight_quantization", "zero_optimization.zenflow"),
        *("comet", "csv_monitor", "tensorboard", "wandb", "flops_profiler.output_file"),
        *("zero_optimization.offload_optimizer.nvme_path", "zero_optimization.offload_param.nvme_path"),
    }
)
"""What DeepSpeed has and jobs do not: they are spread by ZeRO alone, over their own batches; and a tenant's config names no
file of a worker, and no service that measurements would go to."""


def _keys(names: str, **sections: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**dict.fromkeys(names.split()), **sections}


_OFFLOAD: Final = "device buffer_count pin_memory"
_ZERO: Final = _keys(
    "allgather_bucket_size allgather_partitions contiguous_gradients elastic_checkpoint enable_sanity_checks "
    "ignore_unused_parameters legacy_stage1 load_from_fp32_weights log_trace_cache_warnings memory_efficient_linear "
    "overlap_comm override_module_apply parameter_alignment pipeline_loading_checkpoint reduce_bucket_size reduce_scatter "
    "round_robin_gradients save_muon_momentum_buffer_in_memory stage stage3_allgather_sequential "
    "stage3_gather_16bit_weights_on_model_save stage3_max_live_parameters stage3_max_reuse_distance "
    "stage3_model_persistence_threshold stage3_module_granularity_threshold stage3_param_persistence_threshold "
    "stage3_prefetch_bucket_size stage3_use_all_reduce_for_fetch_params sub_group_size use_multi_rank_bucket_allreduce "
    "zero_hpz_partition_size zero_quantized_gradients zero_quantized_nontrainable_weights zero_quantized_weights",
    leaf_module=_keys("classes name_suffixes names"),
    offload_optimizer=_keys(
        f"{_OFFLOAD} cpuadam_cores_perc fast_init pipeline_read pipeline_write ratio super_offload"
    ),
    offload_param=_keys(f"{_OFFLOAD} buffer_size max_in_cpu"),
)
KNOWN_KEYS: Final = _keys(
    "communication_data_type dataloader_drop_last datastates_ckpt disable_allgather disable_python_gc dump_state "
    "gradient_predivide_factor log_level memory_breakdown prescale_gradients seq_parallel_communication_data_type "
    "steps_per_print vocabulary_size wall_clock_breakdown zero_allow_untested_optimizer zero_force_ds_cpu_optimizer",
    activation_checkpointing=_keys(
        "contiguous_memory_optimization cpu_checkpointing number_checkpoints partition_activations profile "
        "synchronize_checkpoint_boundary"
    ),
    aio=_keys("block_size intra_op_parallelism overlap_events queue_depth single_submit use_gds"),
    checkpoint=_keys(
        "checkpoint_serialization load_universal tag_validation use_node_local_storage",
        parallel_write=_keys("pipeline_stage"),
        writer=_keys("data_parallel decoupled io_buffer_double io_buffer_size io_multiplier show_statistics type"),
    ),
    comms_logger=_keys("debug enabled prof_all prof_ops verbose"),
    compile=_keys(
        "autoep_non_moe debug_log deepcompile double_buffer free_activation free_activation_threshold "
        "keep_all_input_tensors keep_int_input_tensors offload_activation offload_activation_pin_memory "
        "offload_opt_states offload_parameters passes symmetric_memory sync_after_allgather sync_after_reduce "
        "sync_before_allgather sync_before_reduce"
    ),
    data_types=_keys("buffer_dtype grad_accum_dtype keep_in_fp32_modules param_dtype"),
    flops_profiler=_keys("detailed enabled module_depth profile_step recompute_fwd_factor top_modules"),
    timers=_keys("", throughput=_keys("enabled synchronized")),
    zero_optimization=_ZERO,
)
"""All that may be given, by name; a section's names below it."""


def wrong_keys(config: Mapping[str, Any], known: Mapping[str, Any] = KNOWN_KEYS, above: str = "") -> Iterator[str]:
    """A sentence on each key that a config must not have, on every level."""
    for key, value in config.items():
        path = f"{above}{key}"
        if path in DECIDED_KEYS:
            if value != LEFT_OPEN:
                yield f"{path!r} is decided by the job's own settings; leave it out."
        elif path in UNUSED_KEYS:
            if value != LEFT_OPEN:
                yield f"{path!r} is nothing that jobs use of DeepSpeed; leave it out."
        elif key not in known:
            yield f"DeepSpeed has no {path[:_SHOWN]!r}{_nearest(key, known, above)}."
        elif known[key] is not None and value != LEFT_OPEN:
            yield from _wrong_section(path, value, known[key])


def _wrong_section(path: str, section: Any, known: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(section, dict):
        yield from wrong_keys(section, known, f"{path}.")
    else:
        yield f"{path!r} is no JSON object."


def _nearest(key: str, known: Mapping[str, Any], above: str) -> str:
    """The name that may be meant: the same of a section into which it belongs, or one like it here."""
    places = [path.rpartition(".")[0] for path in _paths(KNOWN_KEYS) if path.rpartition(".")[2] == key]
    if places:
        return f"; it belongs into {places[0]!r}" if places[0] else "; it belongs to no section"
    near = difflib.get_close_matches(key, known, 1)
    return f"; {above + near[0]!r} is the nearest name" if near else ""


def _paths(known: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, section in known.items():
        yield f"{above}{key}"
        yield from _paths(section or {}, f"{above}{key}.")
