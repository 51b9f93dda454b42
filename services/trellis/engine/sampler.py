"""Chooses a request's next token from the model's logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trellis.engine.request import Sampling


@dataclass(frozen=True, slots=True)
class Choice:
    """The token that was chosen, its natural log probability, and the likeliest tokens with theirs."""

    token_id: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()


class NotFiniteError(ArithmeticError):
    """The logits hold NaN or nothing but infinities, so that no token can be chosen."""


class Sampler:
    """One request's own sampler: its random numbers depend on its seed alone."""

    def __init__(self, sampling: Sampling, logprobs: int | None) -> None:
        self._sampling = sampling
        self._logprobs = logprobs
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed % (1 << 64))

    def choose(self, logits_V: Tensor) -> Choice:
        """The next token. Raises NotFiniteError."""
        logits_V = logits_V.detach().float().cpu()
        if not bool(torch.isfinite(logits_V.max())):
            raise NotFiniteError
        token_id = self._pick(logits_V)
        if self._logprobs is None:
            return Choice(token_id, 0.0)
        logprobs_V = torch.log_softmax(logits_V, dim=-1)
        values, ids = torch.topk(logprobs_V, min(self._logprobs, logprobs_V.numel()))
        likeliest = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        return Choice(token_id, float(logprobs_V[token_id]), likeliest)

    def _pick(self, logits_V: Tensor) -> int:
        if self._sampling.temperature == 0.0:
            return int(logits_V.argmax())
        probabilities_V = shaped_probabilities(logits_V, self._sampling)
        return int(torch.multinomial(probabilities_V, 1, generator=self._generator))


def shaped_probabilities(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """The distribution to draw from: by temperature, then top-k, then top-p, as in transformers' order."""
    # Less the maximum first: a very small temperature must not turn the likeliest token into infinity.
    scores_V = (logits_V.double() - logits_V.max()) / sampling.temperature
    sorted_V, order_V = torch.sort(scores_V, descending=True, stable=True)
    if 0 < sampling.top_k < sorted_V.numel():
        sorted_V[sampling.top_k :] = -torch.inf
    probabilities_V = torch.softmax(sorted_V, dim=-1)
    if sampling.top_p < 1.0:
        before_V = torch.cumsum(probabilities_V, dim=-1) - probabilities_V
        probabilities_V = torch.where(before_V < sampling.top_p, probabilities_V, 0.0)
        probabilities_V = probabilities_V / probabilities_V.sum()
    return torch.zeros_like(probabilities_V).scatter_(0, order_V, probabilities_V)
