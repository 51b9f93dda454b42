"""A base's weights with an adapter in them: W + scaling · B A, computed in fp32 and rounded once to the base's dtype.

O: out_features; I: in_features; R: the adapter's rank at the module; N: rows that are in memory at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import torch
from safetensors import safe_open

from trellis.artifacts import AdapterFacts
from trellis.errors import Reason
from trellis.tensor_files import TensorEntry
from trellis_jobs.export.shards import SourceTensor
from trellis_jobs.export.stop import ExportFailedError

BLOCK_BYTES: Final = 32 << 20
_DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
Write = Callable[[bytes], object]


@dataclass(slots=True)
class Tally:
    """What merging has changed so far."""

    modules: int = 0
    weights: int = 0
    """Numbers that the adapter could change."""
    changed: int = 0
    """Numbers that are others now than the base's."""


class Merge:
    """Writes the base's tensors, those that the adapter changes with it in them; a block of rows at a time."""

    def __init__(self, adapter: Path, facts: AdapterFacts, block_bytes: int = BLOCK_BYTES) -> None:
        self._adapter = adapter
        self._facts = facts
        self._block_bytes = block_bytes
        self.tally = Tally()

    def write(self, tensor: SourceTensor, stream: BinaryIO, write: Write) -> None:
        """Read a tensor's bytes from its file, which is `stream`, and write those of the merged model."""
        module = tensor.entry.name.removesuffix(".weight")
        stream.seek(tensor.entry.start)
        if tensor.entry.name.endswith(".weight") and module in self._facts.scalings:
            self._merge(module, tensor.entry, stream, write)
        else:
            self._copy(tensor.size_bytes, stream, write)

    def check_complete(self) -> None:
        """Raise ExportFailedError unless every module of the adapter was met and something is no longer the base's."""
        missing = len(self._facts.scalings) - self.tally.modules
        if missing:
            raise ExportFailedError(
                Reason.ADAPTER_INVALID, f"The base's weights lack {missing} of the modules that the adapter changes."
            )
        if not self.tally.changed:
            message = "The adapter is so small that the base's own number format rounds all of it away"
            raise ExportFailedError(
                Reason.ADAPTER_INVALID, f"{message}: merged, it would be the base. Serve it instead."
            )

    def _copy(self, left: int, stream: BinaryIO, write: Write) -> None:
        while left:
            data = stream.read(min(left, self._block_bytes))
            if not data:
                raise EOFError("The base's weights end inside of a tensor.")
            write(data)
            left -= len(data)

    def _merge(self, module: str, entry: TensorEntry, stream: BinaryIO, write: Write) -> None:
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None:
            message = f"{entry.name} of the base is {entry.dtype}, into which no adapter can be merged."
            raise ExportFailedError(Reason.BASE_MODEL_INVALID, message)
        a_RI, b_OR = self._pair(module)
        for first, base_NI in self._blocks(entry, dtype, stream):
            b_NR = b_OR[first : first + base_NI.shape[0]]
            wide_NI = base_NI.to(torch.promote_types(dtype, torch.float32))
            sum_NI = torch.addmm(wide_NI, b_NR.to(wide_NI), a_RI.to(wide_NI), alpha=self._facts.scalings[module])
            merged_NI = sum_NI.to(dtype)
            self._check_finite(merged_NI, entry)
            self.tally.changed += int((merged_NI != base_NI).sum())
            write(merged_NI.view(torch.uint8).numpy().tobytes())
        self.tally.modules += 1
        self.tally.weights += entry.size

    def _pair(self, module: str) -> tuple[torch.Tensor, torch.Tensor]:
        """lora_A and lora_B of a module."""
        with safe_open(self._adapter, framework="pt") as tensors:
            name = f"base_model.model.{module}"
            return tensors.get_tensor(f"{name}.lora_A.weight"), tensors.get_tensor(f"{name}.lora_B.weight")

    def _blocks(self, entry: TensorEntry, dtype: torch.dtype, stream: BinaryIO) -> Iterator[tuple[int, torch.Tensor]]:
        """The tensor's rows, so many at a time, with the number of the first one."""
        rows, columns = entry.shape
        row_bytes = columns * dtype.itemsize
        most = max(1, self._block_bytes // row_bytes)
        for first in range(0, rows, most):
            count = min(most, rows - first)
            data = bytearray(count * row_bytes)
            if stream.readinto(data) != len(data):  # type: ignore[attr-defined]  # every file has it
                raise EOFError("The base's weights end inside of a tensor.")
            yield first, torch.frombuffer(data, dtype=dtype).reshape(count, columns)

    @staticmethod
    def _check_finite(merged_NI: torch.Tensor, entry: TensorEntry) -> None:
        if not torch.isfinite(merged_NI).all():
            message = (
                f"With the adapter in it, {entry.name} has numbers that {entry.dtype} does not hold. Serve it instead."
            )
            raise ExportFailedError(Reason.ADAPTER_INVALID, message)
