"""The loss at trained positions, without the logits of all others: those of a whole batch would be the largest tensor.

Shapes: B lines, T positions, D hidden size, N trained positions of the batch, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trellis_jobs.batches import Batch
from trellis_jobs.device import Device
from trellis_jobs.head import tail_of

ROW_MULTIPLE: Final = 16
"""Products of so many rows, or a multiple, give a row the same bits whatever the others are (ADR 0008)."""
_PIECE_LOGITS: Final = {"cpu": 1 << 23}
_OTHER_PIECE_LOGITS: Final = 1 << 25

Piece = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From hidden states and targets to losses, and whether each target ranks first."""
Learn = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""The same, and each loss's gradient by its hidden state."""


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """Of the N trained tokens of a batch: the loss in nats, whether each was ranked first, its weight and its line."""

    losses_N: Tensor
    correct_N: Tensor
    weights_N: Tensor
    rows_N: Tensor

    @property
    def weighted(self) -> Tensor:
        """The sum of the losses, each times its weight."""
        return (self.losses_N * self.weights_N).sum()


class LossHead:
    """Computes token losses of a causal model of transformers, or of a PeftModel around one."""

    def __init__(self, model: Any, device: Device) -> None:
        self._model = model
        self._device = device
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._body = getattr(causal, causal.base_model_prefix, None)
        self._logits = tail_of(causal, model, device)
        """Logits of hidden states; None where they can't be computed apart from the body."""
        self._is_frozen = self._logits is not None and _frozen(causal.get_output_embeddings())
        # A head may have quicker ways of its own: both or none, so that a loss is the same bits with gradients and without.
        self._learn: Learn = getattr(self._logits, "learn", self._learn_piece)
        self._say: Piece = getattr(self._logits, "say", self._piece)

    def __call__(self, batch: Batch) -> TokenLosses:
        """The losses at the batch's trained positions, with gradients if they are on."""
        batch = batch.to(self._device.target)
        trained_BT = batch.weights_BT > 0
        places_N = trained_BT.flatten().nonzero()[:, 0]
        with self._device.autocast:
            losses_N, correct_N = self.at(batch.inputs_BT, None, places_N, batch.targets_BT[trained_BT])
        return TokenLosses(
            losses_N, correct_N, batch.weights_BT[trained_BT], places_N.div(trained_BT.shape[1], rounding_mode="floor")
        )

    def at(
        self, ids_BT: Tensor, positions_BT: Tensor | None, places_N: Tensor, targets_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The losses at `places_N` (b · T + t) of the targets there, in nats, and whether each target ranks first.

        A place's loss and its gradient depend on its own hidden state alone.
        """
        named = {} if positions_BT is None else {"position_ids": positions_BT}
        if self._logits is None:
            whole_BTV: Tensor = self._model(ids_BT, use_cache=False, **named).logits
            return _cross_entropy(whole_BTV.flatten(0, 1)[places_N], targets_N)
        assert self._body is not None
        hidden_BTD: Tensor = self._body(ids_BT, use_cache=False, **named).last_hidden_state
        return self._in_pieces(hidden_BTD.flatten(0, 1)[places_N], targets_N)

    def _in_pieces(self, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        count = targets_N.numel()
        missing = -count % ROW_MULTIPLE
        hidden_ND = functional.pad(hidden_ND, (0, 0, 0, missing))
        targets_N = functional.pad(targets_N, (0, missing))
        size = self.piece_rows
        learns = torch.is_grad_enabled() and not (self._is_frozen and not hidden_ND.requires_grad)
        if learns and self._is_frozen:
            found: tuple[Tensor, Tensor] = _FrozenHead.apply(hidden_ND, targets_N, self._learn, size)  # type: ignore[no-untyped-call]
            return found[0][:count], found[1][:count]
        pieces = zip(hidden_ND.split(size), targets_N.split(size), strict=True)
        if count <= size or not learns:
            done = [(self._piece if learns else self._say)(hidden, targets) for hidden, targets in pieces]
        else:
            done = [checkpoint(self._piece, hidden, targets, use_reentrant=False) for hidden, targets in pieces]
        return _joined(done, count)

    @property
    def piece_rows(self) -> int:
        """How many rows' logits are in memory at once: a multiple of 16."""
        logits = _PIECE_LOGITS.get(self._device.target.type, _OTHER_PIECE_LOGITS)
        vocabulary: int = self._model.config.get_text_config().vocab_size
        return max(1, logits // vocabulary // ROW_MULTIPLE) * ROW_MULTIPLE

    def _piece(self, hidden_nD: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
        assert self._logits is not None
        return _cross_entropy(self._logits(hidden_nD), targets_n)

    def _learn_piece(self, hidden_nD: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            hidden_nD = hidden_nD.detach().requires_grad_()
            losses_n, correct_n = self._piece(hidden_nD, targets_n)
            (gradient_nD,) = torch.autograd.grad(losses_n.sum(), hidden_nD)
        return losses_n.detach(), correct_n, gradient_nD


class _FrozenHead(torch.autograd.Function):
    """The losses of rows and at once their gradients, piece by piece, so that no logits are kept or computed again.

    The loss of a row depends on that row alone, so its gradient is computed for a weight of one and scaled in backward.
    """

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, targets_N: Tensor, learn: Learn, size: int) -> tuple[Tensor, Tensor]:
        done, gradients = [], []
        for hidden, targets in zip(hidden_ND.split(size), targets_N.split(size), strict=True):
            losses, correct, gradient = learn(hidden, targets)
            done.append((losses, correct))
            gradients.append(gradient)
        ctx.save_for_backward(torch.cat(gradients))
        losses_N, correct_N = _joined(done, targets_N.numel())
        ctx.mark_non_differentiable(correct_N)
        return losses_N, correct_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (gradients_ND,) = ctx.saved_tensors
        return grad_N.unsqueeze(1).to(gradients_ND.dtype) * gradients_ND, None, None, None


def _cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    logits_NV = logits_NV.float()
    losses_N = functional.cross_entropy(logits_NV, targets_N, reduction="none")
    return losses_N, logits_NV.detach().argmax(-1) == targets_N


def _joined(done: list[tuple[Tensor, Tensor]], count: int) -> tuple[Tensor, Tensor]:
    if len(done) == 1:
        return done[0][0][:count], done[0][1][:count]
    return torch.cat([losses for losses, _ in done])[:count], torch.cat([correct for _, correct in done])[:count]


def _frozen(head: torch.nn.Module) -> bool:
    """Whether nothing of it learns; a parameter that DeepSpeed has cut up is gathered by hooks, which want its own way."""
    return not any(parameter.requires_grad or hasattr(parameter, "ds_id") for parameter in head.parameters())
