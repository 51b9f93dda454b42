from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from trellis.engine.draw import draw, filled
from trellis.engine.request import Sampling
from trellis.engine.sampler import Choice, NotFiniteError, Sampler, choose
from trellis.engine.token_counts import TokenCounts, penalise
from trellis.engine.truncation import weights

LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0, 0.5])
MIX = (
    Sampling(temperature=0),
    Sampling(seed=1),
    Sampling(seed=2, temperature=0.7, top_p=0.9),
    Sampling(seed=3, top_k=40),
    Sampling(seed=4, top_k=700, top_p=0.97, temperature=1.5),
    Sampling(seed=5, min_p=0.1, repetition_penalty=1.3),
    Sampling(seed=6, temperature=0, presence_penalty=0.5, frequency_penalty=0.2),
    Sampling(seed=7, temperature=2, top_p=0.999, min_p=0.001),
)


def logits_of(seed: int, rows: int, vocabulary: int, scale: float = 3.0) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


def chosen(sampler: Sampler, logits: Tensor) -> Choice:
    (choice,) = choose(logits[None], [sampler])
    assert isinstance(choice, Choice)
    return choice


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    found = weights(filled(logits[None]), [sampling])[0, : len(logits)].double()
    return found / found.sum()


def transformers_scores(logits: Tensor, sampling: Sampling) -> Tensor:
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    return warpers(torch.zeros(1, 0, dtype=torch.long), logits[None].double())[0]


def is_at_a_border(logits: Tensor, sampling: Sampling) -> bool:
    """Whether fp32 and fp64 may well differ on where the cut is."""
    before = transformers_scores(logits, Sampling(sampling.temperature, top_k=sampling.top_k)).softmax(-1)
    ends = before.sort(descending=True).values.cumsum(-1)
    shares = before / before.max()
    return bool(((ends - sampling.top_p).abs() < 1e-4).any() or ((shares - sampling.min_p).abs() < 1e-4).any())


@settings(deadline=None)
@given(
    seed=st.integers(0, 1000),
    vocabulary=st.sampled_from([16, 256, 700, 3001]),
    scale=st.sampled_from([0.01, 1.0, 4.0]),
    temperature=st.floats(0.05, 2),
    top_k=st.sampled_from([0, 1, 5, 15, 512, 600, 5000]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 0.99, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.9]),
)
def test_the_distribution_is_transformers(
    seed: int, vocabulary: int, scale: float, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = logits_of(seed, 1, vocabulary, scale)[0]
    sampling = Sampling(temperature, top_p, top_k, min_p=min_p)
    assume((top_p == 1 and min_p == 0) or not is_at_a_border(logits, sampling))
    expected = torch.softmax(transformers_scores(logits, sampling), -1)
    torch.testing.assert_close(distribution(logits, sampling), expected, rtol=1e-4, atol=1e-9)


def test_equals_stay_together() -> None:
    logits = torch.tensor([1.0, 5.0, 5.0, 5.0, 0.0])
    for sampling in (Sampling(top_k=1), Sampling(top_p=0.1), Sampling(top_k=2, top_p=0.5)):
        assert distribution(logits, sampling).nonzero().flatten().tolist() == [1, 2, 3]


def test_a_tiny_temperature_is_greedy() -> None:
    assert distribution(LOGITS, Sampling(temperature=1e-300))[1] == 1.0


def test_a_tiny_share_of_many_equals_is_all_of_them() -> None:
    logits = torch.zeros(2000)
    assert (distribution(logits, Sampling(top_p=0.3)) > 0).all()
    assert (distribution(logits, Sampling(top_k=700)) > 0).all()


@settings(deadline=None)
@given(seed=st.integers(0, 1000), penalty=st.floats(0.1, 10), prompt=st.lists(st.integers(0, 15)))
def test_the_repetition_penalty_is_transformers(seed: int, penalty: float, prompt: list[int]) -> None:
    logits = logits_of(seed, 3, 16)
    answer = [3, 3, 7]
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([[*prompt, *answer]]), logits[1:2].clone())
    counts = TokenCounts(Sampling(repetition_penalty=penalty), prompt)
    for token in answer:
        counts.add(token)
    found = logits.clone()
    if counts.is_needed:
        penalise(found, [1], [counts])
    torch.testing.assert_close(found[1], expected[0])
    assert found[[0, 2]].equal(logits[[0, 2]])


def test_presence_and_frequency_penalties_look_at_the_answer_alone() -> None:
    sampling = Sampling(presence_penalty=0.5, frequency_penalty=-0.25)
    counts = [TokenCounts(sampling, [0, 1, 1]), TokenCounts(sampling, [])]
    for token in (1, 4, 4, 4):
        counts[0].add(token)
    found = torch.stack([LOGITS, LOGITS])
    penalise(found, [0, 1], counts)
    assert found[0].tolist() == [1.0, 3.0 - 0.25, 2.0, -1.0, 0.5 + 0.25]
    assert found[1].equal(LOGITS)


def test_a_repetition_penalty_changes_what_comes_after() -> None:
    sampler = Sampler(Sampling(temperature=0, repetition_penalty=4.0), None, prompt_ids=[2])
    tokens = []
    for _ in range(3):
        tokens.append(chosen(sampler, LOGITS).token_id)
        sampler.accept(tokens[-1])
    assert tokens == [1, 0, 1]


def test_greedy_takes_the_likeliest() -> None:
    assert chosen(Sampler(Sampling(temperature=0), None), LOGITS).token_id == 1


def test_draws_follow_the_distribution() -> None:
    sampler = Sampler(Sampling(seed=0, top_k=2), None)
    draws = [chosen(sampler, LOGITS).token_id for _ in range(2000)]
    assert set(draws) == {1, 2}
    assert draws.count(1) / 2000 == pytest.approx(torch.softmax(LOGITS[[1, 2]], -1)[0].item(), abs=0.04)


def test_a_draw_is_the_inverse_of_the_running_sum() -> None:
    found = torch.rand(1, 1024, generator=torch.Generator().manual_seed(0))
    found[0, ::3] = 0.0
    ends = found[0].double().cumsum(-1) / found.double().sum()
    uniforms = torch.rand(4000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tokens = draw(found.expand(4000, -1).contiguous(), uniforms)
    off = (uniforms - ends[tokens]).clamp(min=0) + (ends[tokens] - found[0, tokens] / found.sum() - uniforms).clamp(
        min=0
    )
    assert off.max() < 1e-6
    assert (found[0, tokens] > 0).all()


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_draw_what_may_be_drawn(uniform: float) -> None:
    found = torch.zeros(1, 768)
    found[0, 300], found[0, 500] = 1.0, 1e-20
    assert draw(found, torch.tensor([uniform], dtype=torch.float64)).tolist() == [300]


def test_the_same_seed_draws_the_same() -> None:
    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(seed=seed, temperature=2), None)
        return [chosen(sampler, LOGITS).token_id for _ in range(40)]

    assert draws(-1) == draws(-1)
    assert draws(1) != draws(2)
    assert draws(None) != draws(None)


def run(samplers: Sequence[Sampler], rows: Sequence[int], steps: int) -> list[list[Choice]]:
    """What the samplers choose of `steps` logits each, the n-th one by the n-th row."""
    answers: list[list[Choice]] = [[] for _ in samplers]
    for step in range(steps):
        logits = logits_of(step, len(MIX), 5003)[list(rows)].bfloat16()
        for sampler, answer, choice in zip(samplers, answers, choose(logits, samplers), strict=True):
            assert isinstance(choice, Choice)
            answer.append(choice)
            sampler.accept(choice.token_id)
    return answers


@pytest.mark.parametrize("order", [range(8), [7, 6, 5, 4, 3, 2, 1, 0], [3, 3, 3, 5, 5, 1, 7, 2, 2, 6], [6, 0]])
def test_an_answer_is_the_same_in_any_company(order: Sequence[int]) -> None:
    def sampler(row: int) -> Sampler:
        return Sampler(MIX[row], row if row % 2 else None, prompt_ids=range(50))

    together = run([sampler(row) for row in order], order, 6)
    for row, answer in zip(order, together, strict=True):
        assert run([sampler(row)], [row], 6) == [answer]


def test_logprobs_are_of_the_model_itself() -> None:
    logits = logits_of(0, 2, 300)
    sampling = Sampling(temperature=0.5, top_k=3, seed=0, presence_penalty=1.0)
    asking = Sampler(sampling, 2)
    asking.accept(int(logits[0].argmax()))
    choice, other = choose(logits, [asking, Sampler(sampling, None)])
    assert isinstance(choice, Choice)
    assert isinstance(other, Choice)
    expected = logits[0].log_softmax(-1)
    assert choice.logprob == pytest.approx(expected[choice.token_id].item(), abs=1e-5)
    values, ids = expected.topk(2)
    assert [token for token, _ in choice.likeliest] == ids.tolist()
    assert [value for _, value in choice.likeliest] == pytest.approx(values.tolist(), abs=1e-5)
    assert (other.logprob, other.likeliest) == (0.0, ())


def test_no_alternatives_may_be_asked_for() -> None:
    choice = chosen(Sampler(Sampling(temperature=0), 0), LOGITS)
    assert choice.logprob == pytest.approx(LOGITS.log_softmax(-1)[1].item())
    assert choice.likeliest == ()


def test_a_token_that_is_ruled_out_is_no_trouble() -> None:
    logits = LOGITS.clone()
    logits[1] = -torch.inf
    choice = chosen(Sampler(Sampling(temperature=0), 2), logits)
    assert choice.token_id == 2
    assert len(choice.likeliest) == 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("sampling", MIX)
def test_what_is_not_a_number_is_refused_for_its_row_alone(value: float, sampling: Sampling) -> None:
    logits = logits_of(0, 3, 1000)
    expected = choose(logits, [Sampler(sampling, 3) for _ in range(3)])
    logits[1, 7] = value
    found = choose(logits, [Sampler(sampling, 3) for _ in range(3)])
    assert isinstance(found[1], NotFiniteError)
    assert [found[0], found[2]] == [expected[0], expected[2]]


def test_nothing_but_minus_infinity_is_refused() -> None:
    for sampling in MIX:
        (found,) = choose(torch.full((1, 20), -torch.inf), [Sampler(sampling, 1)])
        assert isinstance(found, NotFiniteError)
