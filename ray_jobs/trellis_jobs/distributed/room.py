"""How much memory a worker may take, and how large its model is."""

import os
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig

from trellis.bases import BaseFacts
from trellis.spec import TrainSpec
from trellis_jobs.device import Device
from trellis_jobs.distributed.network import NF4_BYTES
from trellis_jobs.distributed.team import Team
from trellis_jobs.distributed.zero import Fleet, ModelSize
from trellis_jobs.model import target_modules

_CONTROL_GROUP: Final = Path("/sys/fs/cgroup/memory.max")


def fleet_of(team: Team, neighbours: int) -> Fleet:
    """The workers, and what the one with least memory has; `neighbours` are on this node, itself included."""
    host = _host_bytes() // neighbours
    device = torch.cuda.mem_get_info()[1] if team.device.target.type == "cuda" else host
    return Fleet(team.size, team.least(int(device)), team.least(host))


def size_of(spec: TrainSpec, facts: BaseFacts, device: Device) -> ModelSize:
    """The model's size by its files, without loading it."""
    config: Any = AutoConfig.from_pretrained(facts.path, local_files_only=True).get_text_config()
    weight_bytes = device.dtype.itemsize
    stored = NF4_BYTES if spec.quantization == "nf4" else float(weight_bytes)
    return ModelSize(
        parameters=facts.parameter_count,
        trained=facts.parameter_count if spec.full else _adapter_size(spec, facts),
        layers=int(config.num_hidden_layers),
        hidden=int(config.hidden_size),
        weight_bytes=weight_bytes,
        stored_bytes=stored,
    )


def _adapter_size(spec: TrainSpec, facts: BaseFacts) -> int:
    names = target_modules(spec, facts)
    adapted = (shape for path, shape in facts.linear_shapes.items() if path.endswith(tuple(f".{n}" for n in names)))
    return sum(spec.lora.rank * (out + into) for out, into in adapted)


def _host_bytes() -> int:
    """The machine's memory, or what the container may have of it."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CONTROL_GROUP.read_text().strip() if _CONTROL_GROUP.is_file() else "max"
    return min(whole, int(limit)) if limit.isdigit() else whole
