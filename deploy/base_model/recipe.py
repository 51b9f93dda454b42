"""The recipe: every number that decides what the tiny base model becomes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of the Llama that is trained."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    max_position_embeddings: int = 1024


@dataclass(frozen=True, slots=True)
class LengthStage:
    """From `start` (a fraction of the training) on, rows are `row_tokens` tokens long."""

    start: float
    row_tokens: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """All settings of one training run; `minutes` and `tokens` are budgets, and the first one used up ends it."""

    shape: ModelShape = field(default_factory=ModelShape)
    stages: tuple[LengthStage, ...] = (LengthStage(0.0, 256), LengthStage(0.6, 512), LengthStage(0.85, 1024))
    batch_tokens: int = 4096
    tokens: int = 16_000_000
    minutes: float = 60.0
    learning_rate: float = 2e-3
    final_learning_rate_ratio: float = 0.02
    warmup: float = 0.02
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    task_share: float = 0.15
    held_out_share: float = 0.02
    seed: int = 17
    compiled: bool = True
    checkpoint_minutes: float = 5.0
