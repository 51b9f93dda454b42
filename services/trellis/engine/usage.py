"""What an engine holds and does at a moment."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepSize:
    """What a step worked at."""

    number: int
    """Of the step, from 1."""
    answers: int
    tokens: int


@dataclass(frozen=True, slots=True)
class EngineUsage:
    """For a status, for gauges, and to see that nothing leaks: an engine without work uses no block and pins nothing."""

    running: int
    """Answers that are being made, those that are parked among them."""
    waiting: int
    """Answers that wait."""
    kv_blocks: int
    """Blocks of the KV cache."""
    kv_blocks_used: int
    """Blocks that running answers hold."""
    kv_blocks_cached: int
    """Blocks that hold nothing but prefixes that can be used again."""
    kv_block_tokens: int
    """Tokens a block."""
    bank_rows: int
    """Rank rows of the adapter bank: one is a row of A and one of B at every linear."""
    bank_rows_used: int
    """Rank rows that adapters hold, rounded up: one that adapts few linears holds less than its rank."""
    pins: int
    """Answers that use an adapter, those that are parked among them."""
    loading: int
    """Adapters on their way into the host's memory."""
    resident_digests: tuple[str, ...]
    """Adapters in the bank."""
    host_digests: tuple[str, ...]
    """Adapters in the host's memory."""
    tokens_per_second: float
    """Of the last steps, prompts and answers together; 0 before the first one."""
    parked: int = 0
    """Answers that wait for their adapter's slot, which others have for some steps."""
