"""Chooses the next tokens of all requests of a step from the model's logits.

The order is transformers': repetition penalty, presence and frequency penalties, grammar, temperature, top-k, top-p,
min-p. Shapes: N rows of a step, M of these that are shaped, S that are drawn, L that want log probabilities, V
vocabulary, W the same filled up to whole blocks, K likeliest tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from trellis.engine.draw import draw, filled
from trellis.engine.grammar import Grammar, allowed
from trellis.engine.request import MAX_LOGPROBS, Sampling
from trellis.engine.token_counts import TokenCounts, penalise
from trellis.engine.truncation import weights
from trellis.errors import InvalidArgument
from trellis.native import likeliest as native

_CACHED: Final = 1 << 18
"""Logits of a part of a step on a CPU: 1 MiB, of which there are three at a time."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The token that was chosen, its natural log probability (if asked for), and the likeliest tokens with theirs."""

    token_id: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()


class NotFiniteError(ArithmeticError):
    """The logits hold NaN or nothing but infinities, so that no token can be chosen."""


class Sampler:
    """One answer's own state: its random numbers, which depend on its seed alone, its tokens, and its grammar."""

    def __init__(
        self,
        sampling: Sampling,
        logprobs: int | None,
        prompt_ids: Iterable[int] = (),
        grammar: Grammar | None = None,
    ) -> None:
        self.sampling = sampling
        self.logprobs = logprobs
        self.counts = TokenCounts(sampling, prompt_ids)
        self.grammar = grammar
        self.is_greedy = sampling.temperature == 0.0
        self.is_plain = self.is_greedy and not self.counts.is_needed and grammar is None
        """Whether it takes what the model says is likeliest."""
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed % (1 << 64))

    def accept(self, token_id: int) -> None:
        """Take in the token that was chosen."""
        self.counts.add(token_id)
        if self.grammar is not None:
            self.grammar.accept(token_id)

    def uniform(self) -> float:
        """The next random number, from [0, 1)."""
        return torch.rand((), generator=self._generator, dtype=torch.float64).item()


@torch.inference_mode()
def choose(logits_NV: Tensor, samplers: Sequence[Sampler]) -> list[Choice | NotFiniteError | InvalidArgument]:
    """The next token of each row, in the order of the rows; the samplers accept none of them yet.

    A row's token depends on its own logits and sampler alone, not by a bit on the others. A row whose logits hold NaN,
    or none of whose allowed tokens has a finite one, gives NotFiniteError, and one whose schema can't be followed
    InvalidArgument. What is on a CUDA device stays there, but for one copy back.
    """
    assert logits_NV.shape[0] == len(samplers), "one sampler for each row"
    values_N, ids_N = _likeliest(logits_NV)
    is_finite_N = values_N.isfinite()
    for shaped in _parts(logits_NV, [row for row, sampler in enumerate(samplers) if not sampler.is_plain]):
        values_M, ids_M = _choose_shaped(filled(_rows(logits_NV, shaped)), [samplers[row] for row in shaped])
        rows_M = _places(shaped, ids_N)
        ids_N[rows_M] = ids_M.clamp(max=logits_NV.shape[1] - 1)  # rows of NaN draw what isn't there
        is_finite_N[rows_M] &= values_M.isfinite()
    asking = [row for row, sampler in enumerate(samplers) if sampler.logprobs is not None]
    parts = [_logprobs(logits_NV, ids_N, rows) for rows in _parts(logits_NV, asking)]
    found = _lists((ids_N, is_finite_N, *(torch.cat(column) for column in zip(*parts, strict=True))))
    chances = dict(zip(asking, zip(*found[2:], strict=True), strict=True)) if asking else {}
    return [
        _outcome(sampler, int(token_id), bool(is_finite), chances.get(row))
        for row, (sampler, token_id, is_finite) in enumerate(zip(samplers, found[0], found[1], strict=True))
    ]


def _outcome(
    sampler: Sampler, token_id: int, is_finite: bool, chance: tuple[float, list[float], list[float]] | None
) -> Choice | NotFiniteError | InvalidArgument:
    error = sampler.grammar.error if sampler.grammar is not None else None
    if error is not None:
        return error
    if not is_finite:
        return NotFiniteError()
    if chance is None:
        return Choice(token_id, 0.0)
    logprob, ids, values = chance
    likeliest = [(int(other), value) for other, value in zip(ids, values, strict=True)]
    return Choice(token_id, logprob, tuple(likeliest[: sampler.logprobs]))


def _likeliest(logits_NV: Tensor) -> tuple[Tensor, Tensor]:
    """The highest logit of each row, NaN if there is one, and its token."""
    if logits_NV.is_cuda:
        values_N, ids_N = logits_NV.max(-1)
        return values_N, ids_N
    if native.takes(logits_NV):
        return native.likeliest(logits_NV)
    # On a CPU torch's argmax is not vectorised, least of all in bf16: it takes ten times numpy's.
    logits_NV = logits_NV.detach().float()
    ids_N = torch.from_numpy(logits_NV.numpy().argmax(-1))
    return logits_NV.gather(-1, ids_N[:, None]).squeeze(-1), ids_N


def _parts(logits_NV: Tensor, rows: Sequence[int]) -> Iterable[Sequence[int]]:
    """The rows, on a CPU in parts that stay in its cache from one operation to the next."""
    size = len(rows) if logits_NV.is_cuda else max(1, _CACHED // logits_NV.shape[1])
    return (rows[at : at + size] for at in range(0, len(rows), size))


def _choose_shaped(logits_MW: Tensor, samplers: Sequence[Sampler]) -> tuple[Tensor, Tensor]:
    """The highest logit of each row once it is shaped, and the token that is chosen; `logits_MW` is used up."""
    penalised = [row for row, sampler in enumerate(samplers) if sampler.counts.is_needed]
    if penalised:
        penalise(logits_MW, penalised, [samplers[row].counts for row in penalised])
    _bind(logits_MW, samplers)
    values_M, ids_M = _likeliest(logits_MW)
    drawn = [row for row, sampler in enumerate(samplers) if not sampler.is_greedy]
    if drawn:
        chosen = [samplers[row] for row in drawn]
        weights_SW = weights(_rows(logits_MW, drawn), [sampler.sampling for sampler in chosen])
        uniforms_S = torch.tensor([sampler.uniform() for sampler in chosen], dtype=torch.float64)
        ids_M[_places(drawn, ids_M)] = draw(weights_SW, uniforms_S.to(ids_M.device, non_blocking=True))
    return values_M, ids_M


def _bind(logits_MW: Tensor, samplers: Sequence[Sampler]) -> None:
    """Rule out what the rows' grammars do not allow."""
    bound = {row: sampler.grammar for row, sampler in enumerate(samplers) if sampler.grammar is not None}
    if not bound:
        return
    is_allowed_GW = allowed(list(bound.values()), logits_MW.shape[1]).to(logits_MW.device, non_blocking=True)
    rows_G = _places(list(bound), logits_MW)
    logits_MW[rows_G] = torch.where(is_allowed_GW, logits_MW[rows_G], -torch.inf)


def _logprobs(logits_NV: Tensor, ids_N: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The chosen tokens' log probabilities, and the likeliest tokens with theirs."""
    logprobs_LV = _rows(logits_NV, rows).float().log_softmax(-1)
    chosen_L = logprobs_LV.gather(-1, ids_N[_places(rows, ids_N), None]).squeeze(-1)
    # As many whatever is asked for, so that a row gets the same order among equals in whatever company.
    values_LK, ids_LK = logprobs_LV.topk(min(MAX_LOGPROBS, logits_NV.shape[1]))
    return chosen_L, ids_LK, values_LK


def _places(rows: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(rows).to(like.device, non_blocking=True)


def _rows(logits_NV: Tensor, rows: Sequence[int]) -> Tensor:
    first, last = rows[0], rows[-1]
    if last - first == len(rows) - 1:  # ascending, so one after the other: no copy
        return logits_NV[first : last + 1]
    return logits_NV[_places(rows, logits_NV)]


def _lists(columns: Sequence[Tensor]) -> list[list[Any]]:
    """Columns of numbers, or of rows of numbers, as lists, by one copy from the device."""
    numbers = torch.cat([column.double().flatten() for column in columns]).tolist()
    lists: list[list[Any]] = []
    for column in columns:
        taken, numbers = numbers[: column.numel()], numbers[column.numel() :]
        width = column[0].numel()
        lists.append(taken if column.dim() == 1 else [taken[at : at + width] for at in range(0, len(taken), width)])
    return lists
