"""One replica of an engine: what lies in its memory, and what adapters cost a step."""

from dataclasses import dataclass
from typing import Final

from trellis.sizing.accelerator import Accelerator
from trellis.sizing.shape import ModelShape

WEIGHT_BYTES: Final = 2
"""bf16: what a GPU's engine keeps the base, the adapters and the KV cache in."""
KV_SHARE: Final = 0.85
"""Of what is free beside base and bank; the rest is for activations and PyTorch (trellis.engine.runner)."""
RUNTIME_BYTES: Final = 1 << 30
"""CUDA's context and PyTorch's own; an assumption."""


@dataclass(frozen=True, slots=True)
class EngineSize:
    """An engine with a bank of so many adapters of one rank, answering so many calls with contexts of so many tokens."""

    shape: ModelShape
    accelerator: Accelerator
    rank: int
    adapters: int
    context: int
    targets: tuple[str, ...] = ()
    """Linears that the adapters change; all where none is named."""

    @property
    def base_bytes(self) -> int:
        """The base's weights."""
        return WEIGHT_BYTES * self.shape.parameters

    @property
    def row_bytes(self) -> int:
        """One rank row of the bank."""
        return WEIGHT_BYTES * self.shape.linear_values

    @property
    def adapter_bytes(self) -> int:
        """One adapter in the bank."""
        return WEIGHT_BYTES * self.shape.lora_parameters(self.rank, self.targets)

    @property
    def bank_rows(self) -> int:
        """TRELLIS_ENGINE_BANK_ROWS for these adapters."""
        return -(-self.adapters * self.adapter_bytes // self.row_bytes)

    @property
    def bank_bytes(self) -> int:
        """The whole bank."""
        return self.bank_rows * self.row_bytes

    @property
    def kv_bytes_per_token(self) -> int:
        """What a token takes of the KV cache."""
        return WEIGHT_BYTES * self.shape.kv_values

    @property
    def free_bytes(self) -> float:
        """Memory beside the base and the runtime; negative where the base does not fit."""
        return self.accelerator.memory - RUNTIME_BYTES - self.base_bytes

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache has room for; 0 where base and bank leave nothing."""
        return max(0, int(KV_SHARE * (self.free_bytes - self.bank_bytes)) // self.kv_bytes_per_token)

    @property
    def answers(self) -> int:
        """Calls with a full context that have room at once."""
        return self.kv_tokens // self.context

    @property
    def most_adapters(self) -> int:
        """Adapters in the bank when half of what is free is theirs."""
        return max(0, int(self.free_bytes / 2) // self.adapter_bytes)

    def step_bytes(self, answers: int, distinct: int) -> int:
        """What a decoding step reads: the base but for its embedding, the adapters in use, the contexts so far."""
        base = WEIGHT_BYTES * self.shape.read_parameters
        return base + distinct * self.adapter_bytes + answers * self.context * self.kv_bytes_per_token

    def adapter_overhead(self, answers: int, distinct: int) -> float:
        """What adapters add to a step that is bound by reading, over the same step without them."""
        return self.step_bytes(answers, distinct) / self.step_bytes(answers, 0) - 1
