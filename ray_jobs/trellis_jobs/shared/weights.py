"""An adapter's weights on their way into the bank and out of it."""

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from trellis.artifacts import CONFIG_FILE, WEIGHTS_FILE, read_adapter_config
from trellis.bases import BaseFacts
from trellis.lora import LoraPair, LoraWeights
from trellis.objects import ObjectStore
from trellis.spec import TrainSpec

_PREFIX = "base_model.model."


def fresh_weights(spec: TrainSpec, facts: BaseFacts, names: tuple[str, ...]) -> LoraWeights:
    """A new adapter, which changes nothing yet: A uniform as PEFT draws it, B zero. It depends on the seed alone.

    PEFT takes `kaiming_uniform_(a=√5)`, which is uniform between ±1/√in-features.
    """
    generator = torch.Generator().manual_seed(spec.seed)
    rank, pairs = spec.lora.rank, {}
    for path, (outs, ins) in facts.linear_shapes.items():
        if any(path == name or path.endswith("." + name) for name in names):
            a_RI = nn.init.kaiming_uniform_(torch.empty(rank, ins), a=math.sqrt(5), generator=generator)
            pairs[path] = LoraPair(a_RI, torch.zeros(outs, rank), spec.lora.alpha / rank)
    return LoraWeights("", pairs)


def stored_weights(config: bytes, tensors: Mapping[str, Tensor]) -> LoraWeights:
    """The weights of a PEFT folder that was checked when it was written. Raises ArtifactError and LookupError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CONFIG_FILE
        path.write_bytes(config)
        settings = read_adapter_config(path)
    modules = sorted({name.removeprefix(_PREFIX).rpartition(".lora_")[0] for name in tensors})
    return LoraWeights("", {module: _pair(module, settings.scaling_of(module), tensors) for module in modules})


def initial_weights(store: ObjectStore, key: str) -> LoraWeights:
    """The adapter to start from, of its PEFT folder in the object store."""
    tensors = load_tensors(store.read_bytes(f"{key}/{WEIGHTS_FILE}"))
    return stored_weights(store.read_bytes(f"{key}/{CONFIG_FILE}"), tensors)


def named_tensors(weights: LoraWeights) -> dict[str, Tensor]:
    """Its tensors by their names in PEFT's file, on the CPU."""
    return {
        f"{_PREFIX}{module}.lora_{side}.weight": tensor.detach().cpu().contiguous()
        for module, pair in weights.pairs.items()
        for side, tensor in (("A", pair.a_RI), ("B", pair.b_OR))
    }


def adapter_config(weights: LoraWeights, spec: TrainSpec, facts: BaseFacts) -> bytes:
    """PEFT's adapter_config.json; equal adapters give equal bytes."""
    rank = weights.rank
    scalings = {pair.scaling for pair in weights.pairs.values()}
    ranks = {module: pair.rank for module, pair in weights.pairs.items()}
    alphas = {module: _plain(pair.scaling * pair.rank) for module, pair in weights.pairs.items()}
    alpha = _plain(spec.lora.alpha) if scalings == {spec.lora.alpha / rank} else next(iter(alphas.values()))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=spec.lora.dropout,
        target_modules=list(_targets(weights, facts)),
        task_type="CAUSAL_LM",
        base_model_name_or_path=public_source(spec),
        inference_mode=True,
        rank_pattern={module: value for module, value in ranks.items() if value != rank},
        alpha_pattern={module: value for module, value in alphas.items() if value != alpha},
    )
    values = config.to_dict()
    values["target_modules"] = sorted(values["target_modules"])
    return (json.dumps(values, indent=2, sort_keys=True, default=str) + "\n").encode()


def public_source(spec: TrainSpec) -> str:
    """What the base is called outside of this machine: its hub id, or its name in the platform."""
    folder = Path(spec.base_source).expanduser()
    return spec.base_model.rpartition("/")[2] if folder.is_dir() else spec.base_source


def _pair(module: str, scaling: float, tensors: Mapping[str, Tensor]) -> LoraPair:
    a_RI, b_OR = (tensors[f"{_PREFIX}{module}.lora_{side}.weight"].to(torch.float32) for side in "AB")
    return LoraPair(a_RI, b_OR, scaling)


def _targets(weights: LoraWeights, facts: BaseFacts) -> tuple[str, ...]:
    """Names such as `q_proj` where they mean these modules and no others, else whole paths."""
    names = {module.rsplit(".", 1)[-1] for module in weights.pairs}
    meant = {path for path in facts.linear_shapes if path.rsplit(".", 1)[-1] in names}
    return tuple(sorted(names if meant == weights.pairs.keys() else weights.pairs.keys()))


def _plain(value: float) -> float:
    """Whole numbers without a fraction, as PEFT writes them."""
    return int(value) if value == int(value) else value
