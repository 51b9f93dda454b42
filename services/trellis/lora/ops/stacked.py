"""One product for all adapters of a step together, for comparison: no plan chooses it.

It copies the adapters first, computes every row against each of them and takes the row's own. The last bits of a row
may depend on how many other adapters there are, never on what they hold. What others would give is left out by selection,
never by a factor of zero, for 0 · inf is NaN; their B is multiplied by exact zeros, which is safe because no bank holds a
number that is not finite.
"""

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank
from trellis.lora.ops.gathered import Gathered
from trellis.lora.segments import Segments

NAME = "stacked"


def supports(_device: torch.device, _dtype: torch.dtype) -> bool:
    """Everywhere."""
    return True


def add_lora(y_TO: Tensor, x_TI: Tensor, bank: GroupBank, segments: Segments) -> None:
    """y += scale · (x Aᵀ) B for each segment's rows and each part's columns, in place."""
    if segments.is_empty:
        return
    gathered, own_TD1 = Gathered.of(segments, bank), _owners(segments, x_TI.device)
    if not gathered.rank:
        return
    outs = y_TO.split(bank.group.out_features, 1)
    for part, y_To in enumerate(outs):
        a_DRI, b_DRo = gathered.pairs(bank, part)
        scale_D1 = bank.scale_SP[gathered.slots_D, part].to(x_TI.dtype)[:, None]
        s_TDR = (x_TI @ a_DRI.flatten(0, 1).T).unflatten(1, a_DRI.shape[:2]) * scale_D1
        y_To.addmm_(torch.where(own_TD1, s_TDR, 0).flatten(1), b_DRo.flatten(0, 1))


def _owners(segments: Segments, device: torch.device) -> Tensor:
    """(tokens, segments, 1): whether a token is of a segment."""
    kept: Tensor | None = segments.kept.get(NAME)
    if kept is None:
        own_TD1 = torch.zeros(segments.tokens, len(segments.all), 1, dtype=torch.bool)
        for number, segment in enumerate(segments.all):
            own_TD1[segment.span, number] = True
        kept = segments.kept[NAME] = own_TD1.to(device)
    return kept
