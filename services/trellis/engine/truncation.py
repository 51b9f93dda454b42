"""Which tokens may be drawn, and how likely: temperature, then top-k, top-p and min-p, as in transformers' order.

Each of the three is a floor under a row's scores, and tokens that tie with the last one above it stay too; so what a row
may draw does not depend on the order in which equal scores happen to be sorted.

Shapes: S rows that are drawn from, W the vocabulary filled up to whole blocks, K the head, which is a row's highest
scores.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from trellis.engine.draw import place_of, totals
from trellis.engine.request import Sampling

_COLDEST: Final = 1e-30
"""Colder temperatures would be 0 in fp32; by far the likeliest token's is the only weight left long before."""
_HEAD: Final = 512
"""Nearly always holds the top-k or the top-p; the whole row is sorted when it does not."""


def weights(logits_SW: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """How likely each token is, beside the likeliest one of its row at 1.0; 0.0 for those that may not be drawn.

    fp32; `logits_SW` is used up. A row depends on nothing but its own logits and sampling.
    """
    factors_S1 = torch.tensor([[1.0 / max(sampling.temperature, _COLDEST)] for sampling in samplings])
    scores_SW = logits_SW.sub_(logits_SW.amax(-1, keepdim=True)).mul_(_moved(factors_S1, logits_SW))
    weights_SW = scores_SW.exp()
    if not any(sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0 for sampling in samplings):
        return weights_SW
    # A product with 0.0 and 1.0 takes a fifth of what `where` takes on a CPU, where that is not vectorised.
    return weights_SW.mul_(scores_SW.ge_(_floors(scores_SW, weights_SW, samplings)[:, None]))


def _moved(tensor: Tensor, like: Tensor) -> Tensor:
    return tensor.to(like.device, non_blocking=True)


def _floors(scores_SW: Tensor, weights_SW: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """The lowest score that each row may draw."""
    # min-p is a share of the highest probability, whose score is 0 (Nguyen et al., arXiv 2407.01082).
    floors_S = _moved(torch.tensor([sampling.min_p for sampling in samplings]).log(), scores_SW)
    asked = [row for row, sampling in enumerate(samplings) if sampling.top_k > 0 or sampling.top_p < 1.0]
    if asked:
        rows = slice(None) if len(asked) == len(samplings) else _moved(torch.tensor(asked), scores_SW)
        found_S = _nuclei(scores_SW[rows], totals(weights_SW)[rows], [samplings[row] for row in asked])
        floors_S[rows] = torch.maximum(floors_S[rows], found_S)
    return floors_S


def _nuclei(scores_SW: Tensor, totals_S: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """The floors of top-k and top-p; `totals_S` are the weights of the whole rows."""
    width = scores_SW.shape[1]
    ks_S = _moved(torch.tensor([s.top_k if 0 < s.top_k < width else width for s in samplings]), scores_SW)
    ps_S = _moved(torch.tensor([s.top_p for s in samplings], dtype=torch.float64), scores_SW)
    if scores_SW.is_cuda or width <= _HEAD:  # no question back to the device, which sorts fast
        return _nucleus(scores_SW.sort(-1, descending=True).values, totals_S, ks_S, ps_S, width)[0]
    floors_S, is_sure_S = _nucleus(_head(scores_SW), totals_S, ks_S, ps_S, width)
    rest = (~is_sure_S).nonzero().flatten()
    if len(rest):
        sorted_SW = _descending(scores_SW[rest].numpy())
        floors_S[rest] = _nucleus(sorted_SW, totals_S[rest], ks_S[rest], ps_S[rest], width)[0]
    return floors_S


def _head(scores_SW: Tensor) -> Tensor:
    """The highest scores of each row, by numpy, whose vectorised selection takes a third of torch's."""
    cut = scores_SW.shape[1] - _HEAD
    return _descending(np.partition(scores_SW.numpy(), cut, axis=-1)[:, cut:])


def _descending(scores_SK: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Tensor:
    return torch.from_numpy(np.sort(scores_SK, axis=-1)).flip(-1)


def _nucleus(head_SK: Tensor, totals_S: Tensor, ks_S: Tensor, ps_S: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The floor of the k highest scores and, among these, of the fewest that have p of the weight.

    `head_SK` is in descending order. Also says whether the head was enough to know. The second part is the nucleus of
    Holtzman et al. (arXiv 1904.09751): a token stays while those before it have less than p.
    """
    size = head_SK.shape[1]
    has_k_S = ks_S < width
    kth_S = torch.where(has_k_S, _at(head_SK, (ks_S - 1).clamp(max=size - 1)), -torch.inf)
    weights_SK = head_SK.exp().mul_(head_SK.clone().ge_(kth_S[:, None]))
    targets_S = torch.where(has_k_S, totals(weights_SK), totals_S) * ps_S
    last_S = place_of(weights_SK, targets_S)
    floors_S = torch.where(ps_S < 1.0, _at(head_SK, last_S), kth_S)
    knows_k_S = ~has_k_S | (head_SK[:, -1] < kth_S)
    knows_p_S = has_k_S | (last_S < size - 1)
    return floors_S, knows_k_S & knows_p_S


def _at(values_SK: Tensor, places_S: Tensor) -> Tensor:
    return values_SK.gather(-1, places_S[:, None]).squeeze(-1)
