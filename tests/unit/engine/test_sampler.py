from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from trellis.engine.request import Sampling
from trellis.engine.sampler import NotFiniteError, Sampler, shaped_probabilities

LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0, 0.5])


@settings(deadline=None)
@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.05, 2),
    top_k=st.integers(0, 20),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 0.99, 1.0]),
)
def test_the_distribution_is_transformers(seed: int, temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.randn(16, generator=torch.Generator().manual_seed(seed))
    scores = TemperatureLogitsWarper(temperature)(None, logits[None].double())
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    found = shaped_probabilities(logits, Sampling(temperature, top_p, top_k))
    torch.testing.assert_close(found, torch.softmax(scores[0], -1))


def test_a_tiny_temperature_is_greedy() -> None:
    assert shaped_probabilities(LOGITS, Sampling(temperature=1e-300))[1] == 1.0


def test_greedy_takes_the_likeliest() -> None:
    assert Sampler(Sampling(temperature=0), None).choose(LOGITS).token_id == 1


def test_draws_follow_the_distribution() -> None:
    sampler = Sampler(Sampling(seed=0, top_k=2), None)
    draws = [sampler.choose(LOGITS).token_id for _ in range(2000)]
    assert set(draws) == {1, 2}
    assert draws.count(1) / 2000 == pytest.approx(torch.softmax(LOGITS[[1, 2]], -1)[0].item(), abs=0.04)


def test_the_same_seed_draws_the_same() -> None:
    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(seed=seed, temperature=2), None)
        return [sampler.choose(LOGITS).token_id for _ in range(40)]

    assert draws(-1) == draws(-1)
    assert draws(1) != draws(2)
    assert draws(None) != draws(None)


def test_a_token_that_is_ruled_out_is_no_trouble() -> None:
    logits = LOGITS.clone()
    logits[1] = -torch.inf
    choice = Sampler(Sampling(temperature=0), 2).choose(logits)
    assert choice.token_id == 2
    assert len(choice.likeliest) == 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_a_number_is_refused(value: float) -> None:
    logits = LOGITS.clone()
    logits[0] = value
    with pytest.raises(NotFiniteError):
        Sampler(Sampling(), None).choose(logits)
