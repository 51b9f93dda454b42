"""What GPUs are known to have."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One GPU, by its maker's data sheet."""

    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes a second from and to memory."""
    flops: float
    """Operations a second in bf16, dense."""


ACCELERATORS: Final[Mapping[str, Accelerator]] = {
    "l4": Accelerator(24e9, 0.3e12, 121e12),
    "l40s": Accelerator(48e9, 0.864e12, 362e12),
    "a100-80gb": Accelerator(80e9, 2.039e12, 312e12),
    "h100-80gb": Accelerator(80e9, 3.35e12, 989e12),
    "h200": Accelerator(141e9, 4.8e12, 989e12),
    "b200": Accelerator(180e9, 7.7e12, 2250e12),
}
"""By name: NVIDIA's data sheets, rounded."""
