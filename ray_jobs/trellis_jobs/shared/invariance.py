"""Whether this machine's matrix products give a row the same bits whatever the other rows are.

Shapes: O out-features, I in-features.
"""

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from trellis_jobs.loss import ROW_MULTIPLE

_COUNTS: Final = (ROW_MULTIPLE, 3 * ROW_MULTIPLE, 13 * ROW_MULTIPLE)


@torch.no_grad()
def depends_on_neighbours(weights: Iterable[Tensor]) -> tuple[int, int] | None:
    """The (O, I) of the first weight whose products, x Wᵀ or g W, do; None when there is none.

    One weight of each shape is tried, with 16 equal rows among 16, 48 and 208.
    """
    tried: set[torch.Size] = set()
    for weight_OI in weights:
        if weight_OI.shape in tried:
            continue
        tried.add(weight_OI.shape)
        if not (_same(weight_OI) and _same(weight_OI.T)):
            return weight_OI.shape[0], weight_OI.shape[1]
    return None


def _same(weight: Tensor) -> bool:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(_COUNTS[-1], weight.shape[1], generator=generator).to(weight.device, weight.dtype)
    last = functional.linear(rows[-ROW_MULTIPLE:], weight)
    return all(torch.equal(functional.linear(rows[-count:], weight)[-ROW_MULTIPLE:], last) for count in _COUNTS)
