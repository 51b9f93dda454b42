"""A checkpoint as it is told of."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Committed:
    """A checkpoint that is there with all its files."""

    step: int
    key: str
    size_bytes: int
    valid_loss: float | None = None
    """The held-out loss at its step, if that was measured."""
