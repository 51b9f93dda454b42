"""The loss at trained positions, without the logits of all others: those of a whole batch would be the largest tensor.

Shapes: B lines, T positions, D hidden size, N trained positions of the batch, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trellis_jobs.batches import Batch
from trellis_jobs.device import Device

_CHUNK_LOGITS: Final = 1 << 25
_PROBE_TOLERANCE: Final = 1e-3


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """Of the N trained tokens of a batch: the loss in nats, whether each was ranked first, its weight and its line."""

    losses_N: torch.Tensor
    correct_N: torch.Tensor
    weights_N: torch.Tensor
    rows_N: torch.Tensor

    @property
    def weighted(self) -> torch.Tensor:
        """The sum of the losses, each times its weight."""
        return (self.losses_N * self.weights_N).sum()


class LossHead:
    """Computes token losses of a causal model of transformers, or of a PeftModel around one."""

    def __init__(self, model: Any, device: Device) -> None:
        self._model = model
        self._device = device
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._body = getattr(causal, causal.base_model_prefix, None)
        self._head = causal.get_output_embeddings()
        self._selects = self._head_is_all_after_the_body()

    def __call__(self, batch: Batch) -> TokenLosses:
        """The losses at the batch's trained positions, with gradients if they are on."""
        batch = batch.to(self._device.target)
        trained_BT = batch.weights_BT > 0
        targets_N = batch.targets_BT[trained_BT]
        with self._device.autocast:
            selected = self._selected(batch.inputs_BT, trained_BT)
            losses_N, correct_N = self._cross_entropy(selected, targets_N)
        rows_N = trained_BT.nonzero()[:, 0]
        return TokenLosses(losses_N, correct_N, batch.weights_BT[trained_BT], rows_N)

    def _selected(self, inputs_BT: torch.Tensor, trained_BT: torch.Tensor) -> torch.Tensor:
        """Hidden states, or logits where the head can't be applied alone, at the trained positions."""
        if self._selects:
            assert self._body is not None
            return self._body(inputs_BT, use_cache=False).last_hidden_state[trained_BT]  # type: ignore[no-any-return]
        return self._model(inputs_BT, use_cache=False).logits[trained_BT]  # type: ignore[no-any-return]

    def _cross_entropy(self, selected_N: torch.Tensor, targets_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        size = max(1, _CHUNK_LOGITS // self._model.config.vocab_size)
        if targets_N.numel() <= size:
            return self._chunk(selected_N, targets_N)
        pieces = zip(torch.split(selected_N, size), torch.split(targets_N, size), strict=True)
        done = [checkpoint(self._chunk, selected, targets, use_reentrant=False) for selected, targets in pieces]
        return torch.cat([losses for losses, _ in done]), torch.cat([correct for _, correct in done])

    def _chunk(self, selected_N: torch.Tensor, targets_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits_NV = (self._head(selected_N) if self._selects else selected_N).float()
        losses_N = functional.cross_entropy(logits_NV, targets_N, reduction="none")
        return losses_N, logits_NV.detach().argmax(-1) == targets_N

    @torch.no_grad()
    def _head_is_all_after_the_body(self) -> bool:
        """Some architectures scale or cap their logits after the head; tried out rather than listed."""
        if self._body is None or self._head is None:
            return False
        training = self._model.training
        self._model.eval()
        probe_BT = torch.arange(1, 9, device=self._device.target)[None]
        with self._device.autocast:
            whole = self._model(probe_BT, use_cache=False).logits.float()
            alone = self._head(self._body(probe_BT, use_cache=False).last_hidden_state).float()
        self._model.train(training)
        return torch.allclose(whole, alone, atol=_PROBE_TOLERANCE, rtol=_PROBE_TOLERANCE)
