"""One worker among all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from trellis_jobs.device import Device


@dataclass(frozen=True, slots=True)
class Team:
    """A worker that knows its place among all."""

    rank: int
    size: int
    device: Device

    def summed(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sums over all workers; all have the same names."""
        names = sorted(values)
        sums = torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.device.target)
        distributed.all_reduce(sums)
        return dict(zip(names, sums.tolist(), strict=True))

    def least(self, value: int) -> int:
        """The smallest of all workers' numbers."""
        found = torch.tensor(value, dtype=torch.int64, device=self.device.target)
        distributed.all_reduce(found, op=distributed.ReduceOp.MIN)
        return int(found)

    def gathered(self, value: Any) -> list[Any]:
        """All workers' values."""
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all workers are here."""
        self.least(0)
