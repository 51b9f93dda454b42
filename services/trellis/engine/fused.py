"""Modules of a loaded model replaced by faster ones that compute the same."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trellis.lora.linear import packed_product


class PackedHead(nn.Module):
    """The output head with its weight laid out for oneDNN: half the time for the few rows whose logits are wanted.

    Where the head is tied to the embedding this is a second copy, for the embedding is read by rows.
    """

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self._product = packed_product(head.weight.data, None if head.bias is None else head.bias.data)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the rows."""
        return self._product(x)


def pack_head(model: PreTrainedModel) -> None:
    """Replace the output head where oneDNN is faster: on a CPU in bfloat16."""
    head = model.get_output_embeddings()
    packs = model.device.type == "cpu" and model.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available()
    if packs and type(head) is nn.Linear:
        replace(model, head, PackedHead(head))


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` where `old` is."""
    path = next(path for path, module in model.named_modules() if module is old)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, new)
