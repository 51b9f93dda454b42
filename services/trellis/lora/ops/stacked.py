"""One product for all adapters together, over the rank rows from the first active one to the last: decode without kernels.

It computes every row against every adapter there and takes each row's own, so it pays for few rows and adapters that lie
side by side. The last bits of a row may depend on where its adapter lies among the others, never on what they hold. What others would give is left out by selection, never by a factor of zero, for 0 · inf is NaN; their B is
multiplied by exact zeros, which is safe because no bank holds a number that is not finite.
"""

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank
from trellis.lora.segments import Segments

NAME = "stacked"


def supports(_device: torch.device, _dtype: torch.dtype) -> bool:
    """Everywhere."""
    return True


def add_lora(y_TO: Tensor, x_TI: Tensor, bank: GroupBank, segments: Segments) -> None:
    """y += scale · (x Aᵀ) B for each segment's rows and each part's columns, in place."""
    if segments.is_empty:
        return
    low, high = segments.reach
    own_TR, slots_T = _owners(segments, low, high, x_TI.device)
    s_TRP = (x_TI @ bank.a_RPI[low:high].flatten(0, 1).T).unflatten(1, (high - low, len(bank.group.parts)))
    s_TRP = torch.where(own_TR.unsqueeze(-1), s_TRP * bank.scale_SP[slots_T].to(s_TRP.dtype).unsqueeze(1), 0)
    outs = y_TO.split(bank.group.out_features, 1)
    for part, (y_To, b_Ro) in enumerate(zip(outs, bank.b_RO[low:high].split(bank.group.out_features, 1), strict=True)):
        y_To.addmm_(s_TRP[:, :, part], b_Ro)


def _owners(segments: Segments, low: int, high: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Whether a rank row is a token's own, and each token's slot (0 where it has none)."""
    kept: tuple[Tensor, Tensor] | None = segments.kept.get(NAME)
    if kept is None:
        own_TR = torch.zeros(segments.tokens, high - low, dtype=torch.bool)
        slots_T = torch.zeros(segments.tokens, dtype=torch.int64)
        for segment in segments.all:
            own_TR[segment.span, segment.row - low : segment.row - low + segment.rows] = True
            slots_T[segment.span] = segment.slot
        kept = segments.kept[NAME] = (own_TR.to(device), slots_T.to(device))
    return kept
