"""Random models of a few thousand weights, one of each family that the engine serves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY: Final = 97
WINDOW: Final = 6
_SHAPE: Final[dict[str, Any]] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
_ALTERNATING: Final = ["sliding_attention", "full_attention"]

FAMILIES: Final[dict[str, Callable[[], PretrainedConfig]]] = {
    "llama": lambda: LlamaConfig(**_SHAPE, tie_word_embeddings=True),
    "llama_bias": lambda: LlamaConfig(**_SHAPE, attention_bias=True, mlp_bias=True),
    "llama3_rope": lambda: LlamaConfig(
        **_SHAPE,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "qwen2": lambda: Qwen2Config(**_SHAPE),
    "qwen3": lambda: Qwen3Config(**_SHAPE, head_dim=16),
    "mistral": lambda: MistralConfig(**_SHAPE, sliding_window=WINDOW),
    "gemma": lambda: GemmaConfig(**_SHAPE, head_dim=16),
    "gemma2": lambda: Gemma2Config(
        **_SHAPE, head_dim=16, sliding_window=WINDOW, layer_types=_ALTERNATING, query_pre_attn_scalar=8
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **_SHAPE, head_dim=16, sliding_window=WINDOW, layer_types=_ALTERNATING, query_pre_attn_scalar=8
    ),
    "phi": lambda: PhiConfig(
        **_SHAPE, rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    ),
    "phi3": lambda: Phi3Config(**_SHAPE, sliding_window=None),
}


def write_tiny_model(folder: Path, config: PretrainedConfig, *, seed: int = 0) -> Path:
    """Write a random model with weights so large that its answers differ; `folder` is returned."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.1 if "norm" in name else 0.3)
            if "norm" in name and "Gemma" not in type(model).__name__ and "bias" not in name:
                weight.add_(1.0)
    model.save_pretrained(folder)
    return folder
