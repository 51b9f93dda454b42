"""Each method's loss, computed chunk by chunk, against its formula written down plainly in float64."""

import itertools
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trellis.tokens import EncodedExample
from trellis_jobs.loss import TokenLosses
from trellis_jobs.methods.items import EncodedItem, SequenceItems
from trellis_jobs.methods.objective import ChunkLoss, Objective, sequence_log_probabilities
from trellis_jobs.methods.preference import DirectPreference, OddsRatio
from trellis_jobs.methods.supervised import TokenMean

WORDS = 11
PAIRS = ((3, 5), (4, 2), (2, 2), (6, 3))
"""Trained tokens of the chosen and the rejected answer of each pair."""
PAIR_WEIGHTS = (1.0, 0.5, 2.0, 1.0)


@dataclass(frozen=True)
class Found:
    """Logits of a batch's trained tokens, and the tokens."""

    logits_NV: Tensor
    targets_N: Tensor
    weights_N: Tensor
    rows_N: Tensor

    def of(self, sequences: Sequence[int]) -> TokenLosses:
        """The token losses of some sequences, counted anew from zero."""
        chosen = [(self.rows_N == number).nonzero()[:, 0] for number in sequences]
        rows_N = torch.cat([torch.full_like(index, new) for new, index in enumerate(chosen)])
        index_N = torch.cat(chosen)
        logits_NV, targets_N = self.logits_NV[index_N], self.targets_N[index_N]
        losses_N = functional.cross_entropy(logits_NV, targets_N, reduction="none")
        return TokenLosses(losses_N, logits_NV.argmax(-1) == targets_N, self.weights_N[index_N], rows_N)


def found_of(lengths: Sequence[int], weights: Sequence[float] | None = None, seed: int = 0) -> Found:
    generator = torch.Generator().manual_seed(seed)
    rows_N = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    logits_NV = torch.randn(len(rows_N), WORDS, generator=generator, dtype=torch.float64).requires_grad_()
    targets_N = torch.randint(WORDS, (len(rows_N),), generator=generator)
    weights_S = torch.tensor(weights or [1.0] * len(lengths), dtype=torch.float64)
    return Found(logits_NV, targets_N, weights_S[rows_N], rows_N)


def items_of(lengths: Sequence[int], width: int, weights: Sequence[float]) -> SequenceItems:
    items = SequenceItems(width)
    groups = [lengths[start : start + width] for start in range(0, len(lengths), width)]
    for line, (group, weight) in enumerate(zip(groups, weights, strict=True), start=1):
        sequences = tuple(EncodedExample([1] * (n + 1), [0.0] + [1.0] * n, False, n + 1) for n in group)
        items.add(line, EncodedItem(sequences, weight))
    return items


def summed(
    objective: Objective,
    found: Found,
    items: SequenceItems,
    chunks: Sequence[Sequence[int]],
    reference_S: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch that is cut into chunks, and its metrics."""
    batch = list(itertools.chain(*chunks))
    normaliser = objective.normaliser(items, batch)
    parts: list[ChunkLoss] = []
    for chunk in chunks:
        sequences = [index * items.width + part for index in chunk for part in range(items.width)]
        chosen = None if reference_S is None else reference_S[sequences]
        parts.append(objective.loss(found.of(sequences), items, chunk, normaliser, chosen))
    sums = {key: math.fsum(part.sums[key] for part in parts) for key in parts[0].sums}
    return torch.stack([part.loss for part in parts]).sum(), dict(objective.metrics(sums, normaliser))


def token_log_probabilities(found: Found) -> Tensor:
    """(N,), by the definition of softmax."""
    exponentials_NV = found.logits_NV.exp()
    shares_NV = exponentials_NV / exponentials_NV.sum(-1, keepdim=True)
    return shares_NV[torch.arange(len(found.targets_N)), found.targets_N].log()


def answers(found: Found) -> list[Tensor]:
    """The log-probabilities of each sequence's tokens."""
    log_N = token_log_probabilities(found)
    return [log_N[found.rows_N == number] for number in range(int(found.rows_N.max()) + 1)]


def gradient(loss: Tensor, found: Found) -> Tensor:
    return torch.autograd.grad(loss, found.logits_NV, retain_graph=True)[0]


def test_supervised_is_the_mean_over_all_trained_tokens_by_weight() -> None:
    lengths, weights = (3, 5, 2, 4), (1.0, 0.5, 2.0, 1.0)
    found = found_of(lengths, weights)
    items = items_of(lengths, 1, [n * weight for n, weight in zip(lengths, weights, strict=True)])
    log_N = token_log_probabilities(found)
    expected = -(log_N * found.weights_N).sum() / found.weights_N.sum()
    for chunks in ([[0, 1, 2, 3]], [[2, 0], [3], [1]]):
        loss, metrics = summed(TokenMean(), found, items, chunks)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradient(loss, found), gradient(expected, found))
        right = (found.logits_NV.argmax(-1) == found.targets_N).double().mean()
        assert metrics == pytest.approx({"train_loss": expected.item(), "train_token_accuracy": float(right)})


def plain_dpo(
    found: Found, reference: Found | None, beta: float, smoothing: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Losses and margins, a pair each, as TRL's DPOTrainer has them (`loss_type="sigmoid"`)."""
    policy, held = answers(found), None if reference is None else answers(reference)
    losses, margins = [], []
    for pair in range(len(PAIRS)):
        logits = policy[2 * pair].sum() - policy[2 * pair + 1].sum()
        if held is not None:
            logits = logits - (held[2 * pair].sum() - held[2 * pair + 1].sum())
        right, wrong = torch.sigmoid(beta * logits).log(), torch.sigmoid(-beta * logits).log()
        losses.append(-right * (1 - smoothing) - wrong * smoothing)
        margins.append(beta * logits)
    return losses, margins


@pytest.mark.parametrize(
    ("beta", "smoothing", "free"), [(0.1, 0.0, False), (0.5, 0.2, False), (0.3, 0.0, True), (0.7, 0.4, True)]
)
def test_dpo_is_its_formula_however_the_batch_is_cut(beta: float, smoothing: float, free: bool) -> None:
    lengths = list(itertools.chain(*PAIRS))
    found, reference = found_of(lengths), found_of(lengths, seed=1)
    items = items_of(lengths, 2, PAIR_WEIGHTS)
    held_S = torch.stack([one.sum() for one in answers(reference)]).detach()
    objective = DirectPreference(beta, smoothing, free)
    assert objective.needs_reference is not free
    losses, margins = plain_dpo(found, None if free else reference, beta, smoothing)
    weights_P = torch.tensor(PAIR_WEIGHTS, dtype=torch.float64)
    expected = (torch.stack(losses) * weights_P).sum() / weights_P.sum()
    for chunks in ([[0, 1, 2, 3]], [[3], [1, 0], [2]]):
        loss, metrics = summed(objective, found, items, chunks, None if free else held_S)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradient(loss, found), gradient(expected, found))
        assert metrics["train_loss"] == pytest.approx(expected.item())
        assert metrics["reward_margin"] == pytest.approx(torch.stack(margins).mean().item())
        assert metrics["reward_accuracy"] == sum(margin.item() > 0 for margin in margins) / len(PAIRS)
        chosen_N = found.rows_N % 2 == 0
        right_N = found.logits_NV.argmax(-1) == found.targets_N
        assert metrics["train_token_accuracy"] == pytest.approx(right_N[chosen_N].double().mean().item())


def test_dpo_begins_at_the_logarithm_of_two() -> None:
    lengths = list(itertools.chain(*PAIRS))
    found = found_of(lengths)
    held_S = sequence_log_probabilities(found.of(range(len(lengths))), len(lengths)).detach()
    loss, metrics = summed(DirectPreference(0.1), found, items_of(lengths, 2, PAIR_WEIGHTS), [[0, 1], [2, 3]], held_S)
    assert loss.item() == pytest.approx(math.log(2))
    assert metrics["reward_margin"] == pytest.approx(0.0)


def test_orpo_is_its_formula_however_the_batch_is_cut() -> None:
    lengths, beta = list(itertools.chain(*PAIRS)), 0.25
    found, items = found_of(lengths), items_of(lengths, 2, PAIR_WEIGHTS)
    losses, margins = [], []
    for pair in range(len(PAIRS)):
        chosen, rejected = (one.mean() for one in answers(found)[2 * pair : 2 * pair + 2])
        odds = [mean.exp() / (1 - mean.exp()) for mean in (chosen, rejected)]
        losses.append(-chosen - beta * torch.sigmoid((odds[0] / odds[1]).log()).log())
        margins.append(beta * (chosen - rejected))
    weights_P = torch.tensor(PAIR_WEIGHTS, dtype=torch.float64)
    expected = (torch.stack(losses) * weights_P).sum() / weights_P.sum()
    assert not OddsRatio(beta).needs_reference
    for chunks in ([[0, 1, 2, 3]], [[1], [3, 2], [0]]):
        loss, metrics = summed(OddsRatio(beta), found, items, chunks)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(gradient(loss, found), gradient(expected, found))
        assert metrics["reward_margin"] == pytest.approx(torch.stack(margins).mean().item())


@pytest.mark.parametrize("objective", [DirectPreference(5.0, reference_free=True), OddsRatio(1.0)], ids=["dpo", "orpo"])
@pytest.mark.parametrize("size", [30.0, -30.0])
def test_answers_that_are_certain_or_impossible_give_finite_gradients(objective: Objective, size: float) -> None:
    logits_NV = torch.zeros(4, WORDS)
    logits_NV[:2, 0] = size
    logits_NV[2:, 0] = -size
    found = Found(
        logits_NV.requires_grad_(), torch.zeros(4, dtype=torch.long), torch.ones(4), torch.tensor([0, 0, 1, 1])
    )
    loss, _ = summed(objective, found, items_of([2, 2], 2, [1.0]), [[0]])
    assert math.isfinite(loss.item())
    assert bool(gradient(loss, found).isfinite().all())


def test_items_keep_their_sequences_together() -> None:
    items = items_of([3, 5, 4, 2], 2, [1.0, 0.25])
    assert (len(items), items.length(0), items.length(1), items.line(1), items.weight(1)) == (2, 10, 8, 2, 0.25)
    assert [row.ids_T.numel() for row in items.rows(1)] == [5, 3]
    again = items.selected([1])
    again.extend(items)
    assert [again.line(index) for index in range(3)] == [2, 1, 2]
    assert again.weights == array("d", [0.25, 1.0, 0.25])
    assert [row.ids_T.numel() for row in again.rows(2)] == [5, 3]
