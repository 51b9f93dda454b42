"""The arithmetic of capacity."""

from dataclasses import dataclass
from typing import Final

ROUNDING: Final = 1e-9
"""Shares such as 0.1 CPU don't add up exactly; a job is not refused for that."""


@dataclass(frozen=True, slots=True)
class Resources:
    """CPUs and GPUs; parts of one can be asked for."""

    cpus: float = 0.0
    gpus: float = 0.0

    def fits_into(self, room: "Resources") -> bool:
        """Whether there is room for it."""
        return self.cpus <= room.cpus + ROUNDING and self.gpus <= room.gpus + ROUNDING

    def plus(self, other: "Resources") -> "Resources":
        """Both together."""
        return Resources(self.cpus + other.cpus, self.gpus + other.gpus)

    def minus(self, other: "Resources") -> "Resources":
        """What is left without `other`; negative where `other` is more."""
        return Resources(self.cpus - other.cpus, self.gpus - other.gpus)

    def beyond(self, other: "Resources") -> "Resources":
        """What it has more than `other`; of what it has less, nothing."""
        return Resources(max(0.0, self.cpus - other.cpus), max(0.0, self.gpus - other.gpus))

    def part(self, divisor: float) -> "Resources":
        """Its part when it is divided."""
        return Resources(self.cpus / divisor, self.gpus / divisor)

    def share_of(self, whole: "Resources") -> float:
        """The dominant share: of CPUs or of GPUs, whichever it takes the larger part of."""
        cpus = self.cpus / whole.cpus if whole.cpus > 0 else 0.0
        gpus = self.gpus / whole.gpus if whole.gpus > 0 else 0.0
        return max(cpus, gpus)

    def __str__(self) -> str:
        parts = [(self.cpus, "CPU"), (self.gpus, "GPU")]
        said = [f"{amount:g} {unit}{'' if amount == 1 else 's'}" for amount, unit in parts if abs(amount) > ROUNDING]
        return " and ".join(said) or "nothing"


NOTHING: Final = Resources()
