"""Preference tuning: of two answers to one prompt, the chosen one is made likelier than the rejected one.

An item is a pair: the prompt with the chosen answer, and the prompt with the rejected one. A batch's loss is the mean
over its pairs, by the lines' weights. Shapes: N trained tokens of a chunk, P its pairs, S = 2 P its sequences; of a
pair the chosen sequence comes first.
"""
# ruff: noqa: ARG002 - the signature is every objective's

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from trellis.errors import Reason
from trellis.formats import Example, PreferenceExample
from trellis.tokens import ChatTokenizer
from trellis_jobs.failure import JobFailedError
from trellis_jobs.loss import TokenLosses
from trellis_jobs.methods.items import EncodedItem
from trellis_jobs.methods.objective import ChunkLoss, Items, sequence_log_probabilities, total_weight

_LIKELIEST: Final = -1e-6
"""The highest mean log-probability whose odds are computed: those of a certain answer are infinite."""


def encode_preference(example: Example, tokenizer: ChatTokenizer, context_length: int) -> list[EncodedItem]:
    """A line as one pair, whose weight is the line's. Raises TokensError, and JobFailedError for other lines."""
    if not isinstance(example, PreferenceExample):
        message = "The lines are no preferences, which preference tuning learns from; give two answers to each prompt."
        raise JobFailedError(Reason.DATASET_INVALID, message)
    pair = tokenizer.encode_preference(replace(example, weight=1.0), context_length)
    return [EncodedItem((pair.chosen, pair.rejected), example.weight)]


@dataclass(frozen=True, slots=True)
class DirectPreference:
    """Direct preference optimisation, https://arxiv.org/abs/2305.18290, equation 7.

    With the log-probabilities of the whole answers under the model and the reference, and r = beta (log p - log p_ref)
    an answer's reward: loss = -log sigmoid(r_chosen - r_rejected). With label smoothing e (the "conservative" loss of
    https://ericmitchell.ai/cdpo.pdf, equation 3) it is -(1 - e) log sigmoid(m) - e log sigmoid(-m) of the same margin m.
    Without a reference, log p_ref is 0, as in TRL's `reference_free`.
    """

    beta: float
    label_smoothing: float = 0.0
    reference_free: bool = False

    @property
    def needs_reference(self) -> bool:
        """Unless it was asked to do without."""
        return not self.reference_free

    def normaliser(self, items: Items, batch: Sequence[int]) -> float:
        """The weights of the batch's pairs."""
        return total_weight(items, batch)

    def loss(
        self, found: TokenLosses, items: Items, chunk: Sequence[int], normaliser: float, reference_S: Tensor | None
    ) -> ChunkLoss:
        """The chunk's part of the mean over pairs."""
        gained_S = sequence_log_probabilities(found, 2 * len(chunk))
        if self.needs_reference:
            assert reference_S is not None
            gained_S = gained_S - reference_S.to(gained_S)
        margins_P = self.beta * (gained_S[0::2] - gained_S[1::2])
        right_P, wrong_P = functional.logsigmoid(margins_P), functional.logsigmoid(-margins_P)
        losses_P = -(1 - self.label_smoothing) * right_P - self.label_smoothing * wrong_P
        return _chunk_loss(losses_P, margins_P, found, items, chunk, normaliser)

    def metrics(self, sums: Mapping[str, float], normaliser: float) -> Mapping[str, float]:
        """The loss, the share of the chosen answers' tokens that are ranked first, and what the rewards say."""
        return _metrics(sums, normaliser)


@dataclass(frozen=True, slots=True)
class OddsRatio:
    """Odds-ratio preference optimisation, without a reference, https://arxiv.org/abs/2403.07691, equations 4 to 7.

    With p the geometric mean of an answer's token probabilities and odds = p / (1 - p): loss = -log p_chosen
    - beta log sigmoid(log odds_chosen - log odds_rejected). The first term is a mean over each pair's own tokens, as in
    the paper (TRL takes it over all tokens of the batch). An answer's reward, for the measurements, is beta log p.
    """

    beta: float

    @property
    def needs_reference(self) -> bool:
        """It needs none."""
        return False

    def normaliser(self, items: Items, batch: Sequence[int]) -> float:
        """The weights of the batch's pairs."""
        return total_weight(items, batch)

    def loss(
        self, found: TokenLosses, items: Items, chunk: Sequence[int], normaliser: float, reference_S: Tensor | None
    ) -> ChunkLoss:
        """The chunk's part of the mean over pairs."""
        lengths_S = torch.bincount(found.rows_N, minlength=2 * len(chunk))
        means_S = sequence_log_probabilities(found, 2 * len(chunk)) / lengths_S
        bounded_S = means_S.clamp(max=_LIKELIEST)
        log_odds_S = bounded_S - torch.log(-torch.expm1(bounded_S))
        preferred_P = functional.logsigmoid(log_odds_S[0::2] - log_odds_S[1::2])
        margins_P = self.beta * (means_S[0::2] - means_S[1::2])
        return _chunk_loss(-means_S[0::2] - self.beta * preferred_P, margins_P, found, items, chunk, normaliser)

    def metrics(self, sums: Mapping[str, float], normaliser: float) -> Mapping[str, float]:
        """The loss, the share of the chosen answers' tokens that are ranked first, and what the rewards say."""
        return _metrics(sums, normaliser)


def _chunk_loss(
    losses_P: Tensor, margins_P: Tensor, found: TokenLosses, items: Items, chunk: Sequence[int], normaliser: float
) -> ChunkLoss:
    weights_P = losses_P.new_tensor([items.weight(index) for index in chunk])
    weighted = (losses_P * weights_P).sum()
    chosen_N = found.rows_N % 2 == 0
    measured = (weighted, (margins_P > 0).sum(), margins_P.sum(), (found.correct_N & chosen_N).sum(), chosen_N.sum())
    values = torch.stack([value.detach().to(losses_P.dtype) for value in measured]).tolist()
    sums = dict(zip(("loss", "preferred", "margin", "correct", "tokens"), values, strict=True))
    return ChunkLoss(weighted / normaliser, {**sums, "pairs": float(len(chunk))})


def _metrics(sums: Mapping[str, float], normaliser: float) -> Mapping[str, float]:
    return {
        "train_loss": sums["loss"] / normaliser,
        "train_token_accuracy": sums["correct"] / sums["tokens"],
        "reward_accuracy": sums["preferred"] / sums["pairs"],
        "reward_margin": sums["margin"] / sums["pairs"],
    }
