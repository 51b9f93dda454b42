"""Supervised fine-tuning: the mean loss of the tokens that an answer, a completion or a text has.

Shapes: N trained tokens of a chunk.
"""
# ruff: noqa: ARG002 - the signature is every objective's

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trellis.errors import Reason
from trellis.formats import Example, PreferenceExample
from trellis.tokens import ChatTokenizer
from trellis_jobs.failure import JobFailedError
from trellis_jobs.loss import TokenLosses
from trellis_jobs.methods.items import EncodedItem
from trellis_jobs.methods.objective import ChunkLoss, Items, total_weight


def encode_supervised(example: Example, tokenizer: ChatTokenizer, context_length: int) -> list[EncodedItem]:
    """A line as one item of one sequence. Raises TokensError, and JobFailedError for a preference."""
    if isinstance(example, PreferenceExample):
        message = "The lines are preferences, which supervised tuning can't learn from; give messages or completions."
        raise JobFailedError(Reason.DATASET_INVALID, message)
    tokens = tokenizer.encode_example(example, context_length)
    return [EncodedItem((tokens,), math.fsum(tokens.weights))]


@dataclass(frozen=True, slots=True)
class TokenMean:
    """The cross-entropy of the batch's trained tokens, in nats: the mean by their weights over the whole batch.

    It is what transformers' causal models give as loss (`ForCausalLMLoss` with `num_items_in_batch`), but for weights.
    """

    @property
    def needs_reference(self) -> bool:
        """It needs none."""
        return False

    def normaliser(self, items: Items, batch: Sequence[int]) -> float:
        """The weights of all trained tokens."""
        return total_weight(items, batch)

    def loss(
        self, found: TokenLosses, items: Items, chunk: Sequence[int], normaliser: float, reference_S: Tensor | None
    ) -> ChunkLoss:
        """The chunk's part of the mean."""
        weighted = found.weighted
        loss, correct = torch.stack([weighted.detach(), found.correct_N.sum().to(weighted.dtype)]).tolist()
        sums = {"loss": loss, "correct": correct, "tokens": float(found.correct_N.numel())}
        return ChunkLoss(weighted / normaliser, sums)

    def metrics(self, sums: Mapping[str, float], normaliser: float) -> Mapping[str, float]:
        """The loss, and the share of trained tokens that are ranked first."""
        return {"train_loss": sums["loss"] / normaliser, "train_token_accuracy": sums["correct"] / sums["tokens"]}
