"""A job's losses, gradients and weights are the same bits alone and beside any others."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.fused_rig import Job, add, base_of, clear, fused_of, gradients, learn, parameters, random_chunk
from torch import Tensor

from trellis.bases import BaseFacts
from trellis_jobs.shared import attention
from trellis_jobs.shared.chunk import Chunk
from trellis_jobs.shared.fused import FusedModel

JOBS = (Job(4, seed=1), Job(13, 5.0, ("q_proj", "down_proj"), seed=2), Job(8, 16.0, ("up_proj", "v_proj"), seed=3))
FAMILIES_TRIED = ("llama", "qwen2", "mistral", "gemma2")
NOT_FINITE = (float("nan"), float("inf"))


@pytest.fixture(scope="module", params=FAMILIES_TRIED)
def facts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseFacts:
    return base_of(request.param, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module", params=[False, True], ids=["kept", "checkpointed"])
def fused(request: pytest.FixtureRequest, facts: BaseFacts) -> FusedModel:
    model = fused_of(facts, checkpointing=request.param)
    for job in JOBS:
        add(model, job, facts)
    return model


def same(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(left, right, strict=True))


@st.composite
def passes(draw: st.DrawFn) -> list[Chunk]:
    """Chunks of several jobs in any order, some of them neighbours of the same job, some with dropout."""
    lengths = st.lists(st.integers(2, 60), min_size=1, max_size=3)
    slots = st.one_of(st.none(), st.integers(0, len(JOBS) - 1))
    rates = st.sampled_from([0.0, 0.0, 0.3])
    count = draw(st.integers(2, 6))
    return [random_chunk(draw(lengths), draw(slots), draw(st.integers(0, 99)), draw(rates)) for _ in range(count)]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunks=passes())
def test_alone_and_beside_others(fused: FusedModel, chunks: list[Chunk]) -> None:
    together = learn(fused, chunks)
    grads = [gradients(fused.bank, slot) for slot in range(len(JOBS))]
    for slot in {chunk.slot for chunk in chunks}:
        numbers = [number for number, chunk in enumerate(chunks) if chunk.slot == slot]
        alone = learn(fused, [chunks[number] for number in numbers])
        assert same(alone, [together[number] for number in numbers])
        if slot is not None:
            assert same(gradients(fused.bank, slot), grads[slot])
            others = [number for number in range(len(JOBS)) if number != slot]
            assert not any(gradient.any() for other in others for gradient in gradients(fused.bank, other))


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("where", ["loss", "weights"])
def test_beside_one_that_is_not_finite(fused: FusedModel, bad: float, where: str) -> None:
    chunks = [random_chunk((9, 30), 0, 1), random_chunk((22,), 1, 2), random_chunk((5,), 2, 3)]
    alone = learn(fused, [chunks[0]])[0]
    expected = gradients(fused.bank, 0)
    ruined = [weight for weight, _ in parameters(fused.bank, 1) if where == "weights"]
    kept = [weight.clone() for weight in ruined]
    for weight in ruined:
        weight.fill_(bad)
    for order in ((0, 1, 2), (1, 0, 2), (2, 1, 0)):
        scales = [bad if where == "loss" and number == 1 else 1.0 for number in order]
        found = learn(fused, [chunks[number] for number in order], lambda place, scales=scales: scales[place])  # type: ignore[misc]
        assert torch.equal(found[order.index(0)], alone)
        assert same(gradients(fused.bank, 0), expected)
        assert not all(gradient.isfinite().all() for gradient in gradients(fused.bank, 1))
        assert all(gradient.isfinite().all() for gradient in gradients(fused.bank, 2))
    for weight, old in zip(ruined, kept, strict=True):
        weight.copy_(old)


def test_chunks_of_a_batch_may_be_in_different_passes(fused: FusedModel) -> None:
    """Gradients are added up in the order of the chunks, whoever is between them."""
    mine = [random_chunk((9, 30), 0, 1), random_chunk((22,), 0, 2, 0.2), random_chunk((5,), 0, 3)]
    learn(fused, mine)
    expected = gradients(fused.bank, 0)
    other = [random_chunk((17,), 1, 4), random_chunk((40,), 2, 5)]
    clear(fused.bank)
    for chunks in ([mine[0], other[0]], [other[1], mine[1], other[0], mine[2]]):
        fused.backward([found.weighted for found in fused.losses(chunks)])
    assert same(gradients(fused.bank, 0), expected)


def train(fused: FusedModel, slot: int, neighbours: bool) -> list[Tensor]:
    """The slot's weights after 50 steps of AdamW, alone or beside others, one of which diverges."""
    pairs = parameters(fused.bank, slot)
    for weight, gradient in pairs:
        weight.grad = gradient
    optimizer = torch.optim.AdamW([weight for weight, _ in pairs], lr=1e-2)
    for step in range(50):
        chunks = [random_chunk((5 + step % 7, 20), slot, step, 0.1), random_chunk((11,), slot, step + 1000)]
        if neighbours:
            chunks.insert(step % 3, random_chunk((3 + step % 30,), 1 + step % 2, step))
            chunks.insert(step % 2, random_chunk((30,), 2 - step % 2, step))
        broken = {number for number, chunk in enumerate(chunks) if chunk.slot == 2 and step > 40}
        learn(fused, chunks, lambda place, broken=broken: float("nan") if place in broken else 0.1)  # type: ignore[misc]
        optimizer.step()
    return [weight.clone() for weight, _ in pairs]


def test_weights_after_fifty_steps(tmp_path: Path) -> None:
    facts = base_of("llama", tmp_path)
    fused = fused_of(facts)
    for job in JOBS:
        add(fused, job, facts)
    start = [weight.clone() for weight, _ in parameters(fused.bank, 0)]
    alone = train(fused, 0, neighbours=False)
    for (weight, _), old in zip(parameters(fused.bank, 0), start, strict=True):
        weight.copy_(old)
    beside = train(fused, 0, neighbours=True)
    assert same(alone, beside)
    assert not same(alone, start)


@pytest.mark.parametrize("threads", [2, 3])
def test_with_more_threads(threads: int, tmp_path: Path) -> None:
    facts = base_of("llama", tmp_path)
    fused = fused_of(facts)
    slots = [add(fused, job, facts) for job in JOBS]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        mine = random_chunk((9, 30), slots[0], 1)
        alone = learn(fused, [mine])[0]
        expected = gradients(fused.bank, slots[0])
        for count in (1, 5, 24):
            others = [random_chunk((60,), slots[1 + seed % 2], seed) for seed in range(count)]
            assert torch.equal(learn(fused, [*others, mine])[-1], alone)
            assert same(gradients(fused.bank, slots[0]), expected)
    finally:
        torch.set_num_threads(before)


def test_beside_lines_that_are_computed_in_another_way(fused: FusedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention has a kernel of its own for short lines: a pass may have both kinds."""
    monkeypatch.setattr(attention, "SHORT", 16)
    mine = [random_chunk((9, 30), 0, 1), random_chunk((36, 12, 17), 0, 2)]
    expected = learn(fused, mine)
    grads = gradients(fused.bank, 0)
    for others in ([random_chunk((25,), 1, 3)], [random_chunk((5, 16, 56), 2, 4), random_chunk((7,), 1, 5)]):
        found = learn(fused, [others[0], *mine, *others[1:]])
        assert same(found[1:3], expected)
        assert same(gradients(fused.bank, 0), grads)
    monkeypatch.undo()
    for one, other in zip(learn(fused, mine), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
