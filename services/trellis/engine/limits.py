"""How much an engine takes on at once."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What bounds an engine's steps, queue and patience; the KV cache and the adapter bank have sizes of their own."""

    max_running: int = 32
    """Answers that are made at once."""
    max_waiting: int = 128
    """Answers that may wait beside them; further ones are refused with ENGINE_BUSY."""
    tenant_room: int = 8
    """A tenant may have so many times as many answers here as there is room left for: one that floods the engine never
    fills it, and the more there are who do, the less each of them may have."""
    step_tokens: int = 512
    """Tokens of a step: those of running answers, and as much of the prompts as is left, shared between tenants."""
    fairness_window: float = 1024.0
    """So many virtual tokens may be served past a request whose adapter is not resident yet; then none goes past it.
    First tokens get a slot before parked answers of tenants that have had less by no more than this."""
    loads_a_step: int = 2
    """Adapters that are copied into the bank before a step, so that those who run are not held up by many."""
    turn_steps: int = 16
    """Where answers with more adapters run at once than the bank holds, an adapter gives its slot to another one after
    so many steps; after a quarter of them, if it is for a first token."""
    prefetched: int = 64
    """Answers, the next ones to run, whose adapters are fetched while they wait."""
