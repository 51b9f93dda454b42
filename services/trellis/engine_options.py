"""The settings of engines that an operator chooses: the server's, and what it tells each replica; pure."""

from dataclasses import dataclass, field
from typing import Final

KINDS: Final = ("trellis", "vllm")
PRECISIONS: Final = ("auto", "fp32", "bf16")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How big an engine is and how it behaves; the same for every base model."""

    kind: str = field(default="trellis", metadata={"one_of": KINDS})
    """`trellis`, or `vllm` for architectures that the first does not run; the cluster must have it installed."""
    cpus: float = 0.1
    """CPUs that a replica of an engine reserves."""
    threads: int = 1
    """Threads with which a replica computes."""
    gpus: float = 0.0
    """GPUs that a replica of an engine reserves."""
    min_replicas: int = 1
    """Replicas of each engine."""
    max_replicas: int = 1
    """More than the least lets Ray Serve add and remove replicas by load."""
    target_requests: int = 0
    """Calls a replica has when their number is right, for Ray Serve to go by; 0 for as many as it runs at once."""
    precision: str = field(default="auto", metadata={"one_of": PRECISIONS})
    """Of bases and adapters: `fp32`, `bf16`, or `auto` for fp32 on a CPU and the base's own on a GPU."""
    kv_bytes: int = 0
    """Bytes of a replica's KV cache; 0 for 64 MiB on a CPU and most of what is free on a GPU."""
    bank_rows: int = 256
    """Rank rows that a replica has beside its base: the ranks of its adapters together, if they adapt all linears."""
    max_adapters: int = 64
    """Adapters that a replica has beside its base at once."""
    host_bytes: int = 1 << 30
    """Bytes of adapters that a replica keeps in the host's memory."""
    max_running: int = 32
    """Answers that a replica makes at once."""
    max_waiting: int = 128
    """Answers that may wait in a replica; further ones are refused."""
    tenant_room: int = 8
    """A tenant may have so many times as many answers in a replica as there is room left for."""
    step_tokens: int = 512
    """Tokens that a replica computes in one step, those of long prompts in pieces."""
    drain_seconds: float = 60.0
    """So long a replica that is replaced may take to finish its answers."""
    surge_percent: int = 25
    """Replicas beyond the wanted ones, rounded up, while new settings replace old ones; 0 stops the old ones first."""

    def __post_init__(self) -> None:
        """Raises ValueError for what can't be."""
        _one_of("kind", self.kind, KINDS)
        _one_of("precision", self.precision, PRECISIONS)
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} must be 1 to max_replicas {self.max_replicas}.")
        if not 0 <= self.surge_percent <= 100:
            raise ValueError(f"surge_percent {self.surge_percent} must be 0 to 100.")
        for name in ("threads", "bank_rows", "max_adapters", "max_running", "tenant_room", "step_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}.")
