"""What a trainer is set to, by the device and by its environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from trellis_jobs.device import Device


@dataclass(frozen=True, slots=True)
class Settings:
    """Read once, when the process starts."""

    chunk_tokens: int
    """A batch is cut into chunks of up to so many tokens. Part of what a job computes, so a matter of the device only."""
    pass_tokens: int
    """So many tokens share a pass: where more of them no longer make a token cheaper. One chunk always may."""
    rank_rows: int | None
    """Of the adapter bank; by the device's memory when None."""
    max_jobs: int | None
    """At most so many jobs; as the server says when None."""
    stall_seconds: float
    """Without progress for so long, and for 20 times the median pass, the process ends."""

    @classmethod
    def read(cls, device: Device, environment: Mapping[str, str] = os.environ) -> Self:
        """By the device, and by TRELLIS_TRAINER_… where that is set. Raises ValueError."""
        on_gpu = device.target.type == "cuda"
        return cls(
            chunk_tokens=8192 if on_gpu else 512,
            pass_tokens=_count(environment, "PASS_TOKENS") or (16384 if on_gpu else 2048),
            rank_rows=_count(environment, "RANK_ROWS"),
            max_jobs=_count(environment, "MAX_JOBS"),
            stall_seconds=_count(environment, "STALL_SECONDS") or 600,
        )


def _count(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(f"TRELLIS_TRAINER_{name}", "")
    if not text:
        return None
    if not text.isdigit():
        message = f"TRELLIS_TRAINER_{name} is {text!r}; give a whole number, or 0 for what is usual."
        raise ValueError(message)
    return int(text) or None
