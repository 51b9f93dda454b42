"""Adapters as PEFT's folders: adapter_config.json and adapter_model.safetensors."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trellis.artifacts import CONFIG_FILE, WEIGHTS_FILE, check_adapter_folder
from trellis.bases import BaseFacts
from trellis.lora.weights import LoraPair, LoraWeights


def read_adapter(folder: Path, base: BaseFacts, digest: str) -> LoraWeights:
    """An adapter's weights in float32, checked against its base. Raises ArtifactError."""
    facts = check_adapter_folder(folder, base)
    tensors = load_file(folder / WEIGHTS_FILE)

    def weight(module: str, side: str) -> Tensor:
        return tensors[f"base_model.model.{module}.lora_{side}.weight"].to(torch.float32)

    return LoraWeights(
        digest,
        {
            module: LoraPair(weight(module, "A"), weight(module, "B"), scaling)
            for module, scaling in facts.scalings.items()
        },
    )


def write_adapter(folder: Path, weights: LoraWeights, base_name: str = "") -> None:
    """Write what `PeftModel.from_pretrained` loads, with the dtypes of the tensors; the folder must exist."""
    prefix = "base_model.model."
    tensors = {
        f"{prefix}{module}.lora_{side}.weight": tensor.detach().cpu().contiguous()
        for module, pair in weights.pairs.items()
        for side, tensor in (("A", pair.a_RI), ("B", pair.b_OR))
    }
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(_config(weights, base_name), indent=2) + "\n")


def _config(weights: LoraWeights, base_name: str) -> dict[str, Any]:
    """The commonest rank and alpha for all, and the others by module."""
    ranks = {module: pair.rank for module, pair in weights.pairs.items()}
    alphas = {module: pair.scaling * pair.rank for module, pair in weights.pairs.items()}
    rank, alpha = Counter(ranks.values()).most_common(1)[0][0], Counter(alphas.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        # Whole paths: an adapter may change a linear in some layers only.
        "target_modules": sorted(weights.pairs),
        "rank_pattern": {module: value for module, value in ranks.items() if value != rank},
        "alpha_pattern": {module: value for module, value in alphas.items() if value != alpha},
    }
