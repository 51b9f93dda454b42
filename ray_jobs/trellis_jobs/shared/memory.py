"""What fits: how large the bank is, how much a pass may take, and whether a further job has room."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final

import torch

from trellis.lora import LoraGroup
from trellis.lora.layout import Layout
from trellis.spec import MAX_RANK, Lora
from trellis.v1.trainer_pb2 import TrainerRoom

_BANK_SHARE: Final = 0.4
"""Of the memory that is free beside the base."""
_PASS_SHARE: Final = 0.4
_LEAST_TOKENS: Final = 8
_TYPICAL_ROWS: Final = 64
"""More than so many rank rows for each job are not set aside, even where there is memory for them."""
_BYTES_OF_A_NUMBER: Final = 16
"""Weight, gradient and two moments, in float32."""
_CGROUP_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CGROUP_USES: Final = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


def values_of(lora: Lora, groups: Sequence[LoraGroup]) -> int:
    """Numbers that an adapter takes in the bank: its own, at the linears that it adapts."""
    parts = [part for group in groups for part in group.parts]
    wanted = lora.target_modules or parts
    ranks = {part: lora.rank for part in parts if any(f".{part}".endswith(f".{name}") for name in wanted)}
    return Layout.of(ranks, groups).values


def free_bytes(device: torch.device) -> int:
    """Memory of the device that nobody uses; on a CPU, what the machine and the container still give."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min([_available_bytes(), *_container_bytes()])


def bank_rows(groups: Iterable[LoraGroup], free: int, max_jobs: int) -> int:
    """Rank rows of a bank that leaves memory for passes: enough for the largest adapter, where there is room for it."""
    row_bytes = _BYTES_OF_A_NUMBER * sum(group.row_values for group in groups)
    affordable = int(free * _BANK_SHARE) // row_bytes
    wanted = max(MAX_RANK, max_jobs * _TYPICAL_ROWS)
    return max(1, min(affordable, wanted))


def pass_bytes(free: int) -> int:
    """Memory that the activations of a pass may take."""
    return int(free * _PASS_SHARE)


def longest_line(activation_bytes: Callable[[int, int], int], budget: int, context_length: int) -> int:
    """Tokens of the longest line whose activations fit the budget in bytes, found by halving; the context at most."""
    low, high = 0, context_length
    while low < high:
        middle = (low + high + 1) // 2
        if activation_bytes(middle, middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def affordable_tokens(activation_bytes: Callable[[int, int], int], budget: int, wanted: int) -> int:
    """Tokens of a pass of short lines that fits the budget in bytes; at most those that are wanted."""
    tokens = wanted
    while tokens > _LEAST_TOKENS and activation_bytes(tokens, min(tokens, 512)) > budget:
        tokens //= 2
    return tokens


@dataclass(slots=True)
class Room:
    """What is left beside the jobs that are here or on their way. May be asked and changed on any thread."""

    max_jobs: int
    rank_rows: int
    """Of a bank that has so many on all linears."""
    line_tokens: int
    groups: Sequence[LoraGroup]
    _values: dict[object, int] = field(default_factory=dict, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    def take(self, who: object, lora: Lora, line_tokens: int) -> str:
        """Set memory aside for a job with lines of up to so many tokens; else why there is none, as a sentence."""
        values = values_of(lora, self.groups)
        with self._lock:
            refusal = self._refusal(values, line_tokens)
            if not refusal:
                self._values[who] = values
            return refusal

    def give_back(self, who: object) -> None:
        """The job has left."""
        with self._lock:
            self._values.pop(who, None)

    def to_proto(self) -> TrainerRoom:
        """The room as the server is told of it: rank rows of all linears, rounded down.

        A row is what an adapter of rank 1 takes on all linears, with the holes that it may have. The server counts each
        job that it gives by its rank and the part that its linears are of all (BaseFacts.share_of): no less than it takes.
        """
        with self._lock:
            jobs = max(0, self.max_jobs - len(self._values))
            rows = self._left() // values_of(Lora(1), self.groups)
            return TrainerRoom(jobs=jobs, rank_rows=rows, line_tokens=self.line_tokens)

    def _refusal(self, values: int, line_tokens: int) -> str:
        if len(self._values) >= self.max_jobs:
            return f"The trainer has {len(self._values)} jobs, as many as it may."
        if values > (left := self._left()):
            return (
                f"The adapter has {values:,} numbers; of the trainer's room for {self._size:,} only {left:,} are left."
            )
        if line_tokens > self.line_tokens:
            return f"A line may have {line_tokens} tokens, but the memory here suffices for {self.line_tokens}."
        return ""

    @property
    def _size(self) -> int:
        return self.rank_rows * sum(group.row_values for group in self.groups)

    def _left(self) -> int:
        return self._size - sum(self._values.values())


def _container_bytes() -> list[int]:
    """What the container may still take, by the kernel's control groups; nothing where it has no limit."""
    limit, used = _number(_CGROUP_LIMITS), _number(_CGROUP_USES)
    return [] if limit is None or used is None else [max(0, limit - used)]


def _number(paths: Iterable[str]) -> int | None:
    for path in paths:
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return int(text)
    return None


def _available_bytes() -> int:
    """What the machine has without swapping; where /proc does not say, its free pages."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
