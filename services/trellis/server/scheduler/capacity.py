"""The arithmetic of capacity and limits; everything else about scheduling is order."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_ROUNDING = 1e-9
"""Shares such as 0.1 CPU don't add up exactly; a job is not refused for that."""


@dataclass(frozen=True, slots=True)
class Resources:
    """CPUs and GPUs; parts of one can be asked for."""

    cpus: float = 0.0
    gpus: float = 0.0

    def fits_into(self, room: "Resources") -> bool:
        """Whether there is room for it."""
        return self.cpus <= room.cpus + _ROUNDING and self.gpus <= room.gpus + _ROUNDING

    def plus(self, other: "Resources") -> "Resources":
        """Both together."""
        return Resources(self.cpus + other.cpus, self.gpus + other.gpus)

    def minus(self, other: "Resources") -> "Resources":
        """What is left without `other`; negative where `other` is more."""
        return Resources(self.cpus - other.cpus, self.gpus - other.gpus)

    def __str__(self) -> str:
        parts = [(self.cpus, "CPU"), (self.gpus, "GPU")]
        said = [f"{amount:g} {unit}{'' if amount == 1 else 's'}" for amount, unit in parts if abs(amount) > _ROUNDING]
        return " and ".join(said) or "nothing"


class Ledger:
    """What is free, and how many jobs each tenant runs, while jobs are admitted."""

    def __init__(self, capacity: Resources, limit: int, active: Sequence[tuple[str, Resources]]) -> None:
        self.capacity = capacity
        self.limit = limit
        self.free = capacity
        self.running: Counter[str] = Counter()
        for tenant, needs in active:
            self.take(tenant, needs)

    def at_limit(self, tenant: str) -> bool:
        """Whether the tenant runs as many jobs as it may."""
        return self.running[tenant] >= self.limit

    def take(self, tenant: str, needs: Resources) -> None:
        """A job of the tenant takes this much."""
        self.free = self.free.minus(needs)
        self.running[tenant] += 1
