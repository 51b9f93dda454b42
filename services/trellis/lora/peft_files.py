"""Adapters as PEFT's folders: adapter_config.json and adapter_model.safetensors."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from trellis.artifacts import WEIGHTS_FILE, check_adapter_folder
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
