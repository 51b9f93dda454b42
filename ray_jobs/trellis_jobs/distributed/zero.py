"""How a model is laid over workers: which ZeRO stage, what is offloaded, whether activations are computed again.

All of it is arithmetic over sizes, in bytes a worker. P is all parameters, T the trained ones, N the workers, w the bytes
of a weight (2 in bf16, 4 in fp32), h the hidden size, L the layers (https://arxiv.org/abs/1910.02054, section 3):

    weights      w P        stage 3: / N, and one layer gathered (w P / L); offload all: only the gathered layer
    gradients    w T        stages 2 and 3: / N; offload: on the host
    optimizer    12 T / N   a weight and two moments in fp32; offload: on the host
    activations  a token: 34 h L, and twice that in fp32 (https://arxiv.org/abs/2205.05198, equation 1, attention's
                 matrix left out, as it is not kept); checkpointed: w h L, and one layer's 34 h
    the rest     logits of a chunk, communication's buckets and the framework: a tenth of the device, 1 GiB at most
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from trellis.spec import Distributed

OPTIMIZER_BYTES: Final = 12
_ACTIVATION_BYTES: Final = 34
_MAX_REST: Final = 1 << 30
_GIB: Final = 1 << 30
_MAX_PASS_TOKENS: Final = 65536
_LEAST_STAGES: Final = {"none": 0, "optimizer": 1, "all": 3}
"""Of ZeRO, for what is offloaded."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What of a model decides how much memory it takes."""

    parameters: int
    trained: int
    layers: int
    hidden: int
    weight_bytes: int
    """Bytes of a weight while it is computed with: 2 or 4."""
    stored_bytes: float
    """Bytes of a frozen weight as it lies in memory; 0.6 in NF4, else as `weight_bytes`."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers, and the bytes of memory that each may take."""

    workers: int
    device_bytes: int
    host_bytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to lay a model over workers."""

    stage: int
    offload: Literal["none", "optimizer", "all"]
    checkpointing: bool

    def __str__(self) -> str:
        parts = [f"ZeRO-{self.stage}"]
        if self.offload != "none":
            parts.append("the optimizer on the host" if self.offload == "optimizer" else "all state on the host")
        if self.checkpointing:
            parts.append("activations computed again")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes a worker needs under a layout."""

    weights: int
    gradients: int
    optimizer: int
    host: int
    token: int
    """A token's activations."""

    @property
    def state(self) -> int:
        """What lies on the device whatever is computed."""
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True, slots=True)
class ZeroPlan:
    """The layout that was chosen."""

    layout: Layout
    memory: Memory
    pass_tokens: int
    """How many tokens, padding included, one pass of a worker may have."""
    fits: bool
    reason: str
    """A sentence with the numbers."""


def memory_of(size: ModelSize, layout: Layout, workers: int) -> Memory:
    """What a worker needs, by the arithmetic above."""
    sharded = layout.stage == 3
    weights = int(size.stored_bytes * (size.parameters - size.trained) + size.weight_bytes * size.trained)
    gathered = size.weight_bytes * size.parameters // size.layers
    gradients = size.weight_bytes * size.trained // (workers if layout.stage >= 2 else 1)
    optimizer = OPTIMIZER_BYTES * size.trained // workers
    host = 0
    if sharded:
        weights = weights // workers + gathered
    if layout.offload == "all":
        host, weights = weights - gathered, gathered
    if layout.offload != "none":
        host, gradients, optimizer = host + gradients + optimizer, 0, 0
    return Memory(weights, gradients, optimizer, host, _token_bytes(size, checkpointing=layout.checkpointing))


def _token_bytes(size: ModelSize, *, checkpointing: bool) -> int:
    layer = _ACTIVATION_BYTES * size.hidden * size.weight_bytes // 2
    if checkpointing:
        return size.weight_bytes * size.hidden * size.layers + layer
    return layer * size.layers


def plan(size: ModelSize, fleet: Fleet, wanted: Distributed, context_length: int, *, quantized: bool) -> ZeroPlan:
    """The first layout that fits, of those that the spec leaves open, the fastest first; else the smallest one.

    A layout fits when its state and the activations of a line of `context_length` tokens do.
    """
    room = fleet.device_bytes - min(_MAX_REST, fleet.device_bytes // 10)
    layouts = list(_layouts(wanted, fleet.workers, quantized=quantized))
    needs = [memory_of(size, layout, fleet.workers) for layout in layouts]
    for layout, memory in zip(layouts, needs, strict=True):
        if memory.state + memory.token * context_length <= room and memory.host <= fleet.host_bytes:
            tokens = max(context_length, min(_MAX_PASS_TOKENS, (room - memory.state) // max(1, memory.token)))
            return ZeroPlan(layout, memory, tokens, fits=True, reason=_reason(layout, memory, size, fleet, room))
    layout, memory = min(zip(layouts, needs, strict=True), key=lambda pair: pair[1].state + pair[1].token)
    why = _reason(layout, memory, size, fleet, room)
    return ZeroPlan(layout, memory, context_length, fits=False, reason=f"{why} It may not fit: give it more workers.")


def _layouts(wanted: Distributed, workers: int, *, quantized: bool) -> Iterator[Layout]:
    """All that the spec allows, by cost: ZeRO-2 sends no more than ZeRO-1, recomputing costs a third of a step, ZeRO-3
    sends half as much again, and offloading waits for the host's memory."""
    steps: tuple[tuple[int, Literal["none", "optimizer", "all"], bool], ...] = (
        (1, "none", False),
        (2, "none", False),
        (2, "none", True),
        (3, "none", False),
        (3, "none", True),
        (2, "optimizer", True),
        (3, "optimizer", True),
        (3, "all", True),
    )
    seen = set()
    for stage, offload, checkpointing in steps:
        layout = _heeding(wanted, Layout(stage, offload, checkpointing))
        sound = layout.stage >= _LEAST_STAGES[layout.offload] and not (quantized and layout.stage == 3)
        useless = wanted.zero_stage is None and layout.offload == "none" and workers == 1 and layout.stage > 2
        if sound and not useless and layout not in seen:
            seen.add(layout)
            yield layout


def _heeding(wanted: Distributed, layout: Layout) -> Layout:
    stage = layout.stage if wanted.zero_stage is None else wanted.zero_stage
    offload = layout.offload if wanted.offload == "auto" else wanted.offload
    if wanted.zero_stage is None and offload == "all":
        stage = 3
    if wanted.offload == "auto" and offload == "all" and stage != 3:
        offload = "optimizer"
    given = wanted.gradient_checkpointing
    return Layout(stage, offload, layout.checkpointing if given is None else given)


def _reason(layout: Layout, memory: Memory, size: ModelSize, fleet: Fleet, room: int) -> str:
    return (
        f"{layout}: {size.parameters:,} parameters, {size.trained:,} of them trained, take {_gib(memory.weights)} for weights, "
        f"{_gib(memory.gradients)} for gradients and {_gib(memory.optimizer)} for the optimizer on each of {fleet.workers} "
        f"workers, {_gib(memory.host)} on the host, and {memory.token / 1024:.0f} KiB a token; a worker has {_gib(room)}."
    )


def _gib(size: float) -> str:
    return f"{size / _GIB:.2f} GiB"
