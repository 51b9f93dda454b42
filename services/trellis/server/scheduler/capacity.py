"""The arithmetic of capacity and limits; everything else about scheduling is order."""

from collections import Counter
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

    def __init__(self, capacity: Resources, limit: int) -> None:
        self.capacity = capacity
        self.limit = limit
        self.free = capacity
        self.running: Counter[str] = Counter()
        self._promised: set[str] = set()

    def hold(self, needs: Resources) -> None:
        """So much is not free."""
        self.free = self.free.minus(needs)

    def take(self, tenant: str, needs: Resources) -> None:
        """A job of the tenant takes this much."""
        self.hold(needs)
        self.running[tenant] += 1

    def promise(self, tenant: str) -> None:
        """One of the tenant's jobs waits for capacity: younger ones must leave it a place under the limit."""
        self._promised.add(tenant)

    def at_limit(self, tenant: str) -> bool:
        """Whether the tenant runs as many jobs as it may."""
        return self.running[tenant] >= self.limit

    def may_run(self, tenant: str) -> bool:
        """Whether a further job of the tenant may run, beside the one that was promised a place."""
        return self.running[tenant] + (tenant in self._promised) < self.limit
