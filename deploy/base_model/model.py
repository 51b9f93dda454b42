"""The model: a small Llama, and how it is written to a folder."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from recipe import ModelShape


def new_model(shape: ModelShape, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Return an untrained fp32 model with tied embeddings, the same for the same seed."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        max_position_embeddings=shape.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        use_cache=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def parameter_count(model: LlamaForCausalLM) -> int:
    """Return how many parameters the model has; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights as bf16 safetensors, configs and tokenizer into `folder`, replacing each file at once."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = copy.deepcopy(model)
    torch.nn.Module.to(weights, torch.bfloat16)
    weights.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=128,
    )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as written:
        weights.save_pretrained(written)
        tokenizer.save_pretrained(written)
        for file in Path(written).iterdir():
            file.chmod(0o644)
            file.replace(folder / file.name)
