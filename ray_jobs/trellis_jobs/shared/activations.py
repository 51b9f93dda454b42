"""How much memory a pass takes beside the weights, measured on small ones.

Shapes: T rows of a pass, L rows of its longest sequence.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TRIAL_ROWS: Final = 16
_FOLD: Final = 4
"""How many times as many rows the larger passes have."""


@dataclass(frozen=True, slots=True)
class ActivationCost:
    """A pass's peak, forward and backward: fixed + per_row · T + per_pair · T · L bytes, and what its head takes."""

    fixed: float
    per_row: float
    per_pair: float
    head_row: int
    """Bytes of the logits of one trained row, its gradient and what lies between."""
    head_rows: int
    """Rows of which there are logits at once."""
    window: int
    """The smallest sliding window; 0 for none. From there on there is a mask of the longest sequence's square."""

    @classmethod
    def measure(cls, peak_of: Callable[[int, int], int], *, head_row: int, head_rows: int, window: int) -> Self:
        """From the peaks, in bytes, of passes of some sequences of some length."""
        small = peak_of(1, TRIAL_ROWS)
        wide, long = peak_of(_FOLD, TRIAL_ROWS), peak_of(1, _FOLD * TRIAL_ROWS)
        rows = _FOLD * TRIAL_ROWS
        per_pair = max(0.0, (long - wide) / (rows * (rows - TRIAL_ROWS)))
        per_row = max(0.0, (wide - small) / (rows - TRIAL_ROWS) - per_pair * TRIAL_ROWS)
        fixed = max(0.0, small - per_row * TRIAL_ROWS - per_pair * TRIAL_ROWS**2)
        return cls(fixed, per_row, per_pair, head_row, head_rows, window)

    def bytes(self, tokens: int, longest: int) -> int:
        """Of a pass of so many rows, the longest sequence of which has so many."""
        body = self.fixed + self.per_row * tokens + self.per_pair * tokens * longest
        mask = longest**2 * 4 if 0 < self.window < longest else 0
        return int(body) + mask + self.head_row * min(tokens, self.head_rows)


def peak_bytes(work: Callable[[], object], device: torch.device, known: Iterable[Tensor]) -> int:
    """The most bytes of tensors that the work makes and has at one time; `known` ones were there before it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before: int = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        peak: int = torch.cuda.max_memory_allocated(device)
        return peak - before
    meter = _PeakMeter(known)
    with meter:
        work()
    return meter.peak


class _PeakMeter(TorchDispatchMode):
    """Counts the storages that operations return, each as long as it lives."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}  # noqa: SLF001 - its address in C++

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation, and note what is new."""
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here = {tensor.untyped_storage()._cdata for tensor in given}  # noqa: SLF001
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in here:  # noqa: SLF001
                self._note(leaf.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()  # noqa: SLF001
        if address in self._seen:
            return
        self._seen.add(address)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._seen.discard(address)
        self._live -= size
