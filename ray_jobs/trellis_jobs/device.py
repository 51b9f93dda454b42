"""Where and in which number format the job computes."""

import os
from dataclasses import dataclass

import torch

from trellis.spec import Precision


@dataclass(frozen=True, slots=True)
class Device:
    """A device of torch, and the dtype of the base's weights and products; adapters are fp32 in any case."""

    target: torch.device
    dtype: torch.dtype

    @property
    def autocast(self) -> torch.autocast:
        """The context to compute in."""
        return torch.autocast(self.target.type, dtype=torch.bfloat16, enabled=self.dtype is torch.bfloat16)

    @property
    def pass_tokens(self) -> int:
        """How many tokens, padding included, an evaluation pass may take."""
        return 65536 if self.target.type == "cuda" else 4096


def choose_device(precision: Precision) -> Device:
    """The accelerator if there is one, else the CPU; `auto` is bf16 on an accelerator that has it, else fp32."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fast_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    bf16 = precision == "bf16" or (precision == "auto" and fast_bf16)
    return Device(device, torch.bfloat16 if bf16 else torch.float32)


def limit_threads() -> None:
    """Take as many threads as the launcher gave (OMP_NUM_THREADS): more than the reserved CPUs slow everybody down."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > 0:
        torch.set_num_threads(int(threads))
    torch.set_num_interop_threads(1)
