"""Gradients: right, and each adapter's from its own rows alone, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from tests.lora_mixes import GROUPS, MODULES, bank_of, mixes, random_weights, segments_of

from trellis.lora import OPS, AdapterBank, GroupBank, HostAdapter, LoraWeights, Segments, adapted
from trellis.lora.ops import native
from trellis.lora.products import PlainProduct
from trellis.native.build import available

Gradients = tuple[dict[str, torch.Tensor], torch.Tensor]
"""Of x of every group, and of all adapters."""


def added(x_TI: torch.Tensor, group: GroupBank, segments: Segments) -> torch.Tensor:
    """What the adapters add to a base that says nothing."""
    nothing = PlainProduct(x_TI.new_zeros(group.group.columns, group.group.in_features), None)
    return adapted(x_TI, nothing, group, segments)


def gradients(bank: AdapterBank, segments: Segments, x_scale: float = 1.0) -> Gradients:
    """For a loss that weighs every output differently."""
    bank.require_gradients()
    found = {}
    for name, group in bank.groups.items():
        generator = torch.Generator().manual_seed(len(name))
        x = torch.randn(segments.tokens, group.group.in_features, generator=generator, dtype=bank.dtype) * x_scale
        weight = torch.randn(segments.tokens, group.group.columns, generator=generator, dtype=bank.dtype)
        x.requires_grad_()
        (added(x, group, segments) * weight).sum().backward()
        assert x.grad is not None
        found[name] = x.grad
    assert bank.values_V.grad is not None
    return found, bank.values_V.grad


def plain_gradients(bank: AdapterBank, segments: Segments) -> Gradients:
    """The same by autograd over the formula."""
    found, values_V = {}, bank.values_V.detach().clone().requires_grad_()
    for name, group in bank.groups.items():
        generator = torch.Generator().manual_seed(len(name))
        x = torch.randn(
            segments.tokens, group.group.in_features, generator=generator, dtype=bank.dtype
        ).requires_grad_()
        weight = torch.randn(segments.tokens, group.group.columns, generator=generator, dtype=bank.dtype)
        loss = x.sum() * 0 + values_V.sum() * 0
        for s in segments.all:
            columns = 0
            for part, width in enumerate(group.group.out_features):
                pair = group.pair_of(values_V, s.slot, part)
                if pair is not None:
                    added = x[s.span] @ pair[0].T @ pair[1] * group.scale_SP[s.slot, part]
                    loss = loss + (added * weight[s.span, columns : columns + width]).sum()
                columns += width
        loss.backward()
        assert x.grad is not None
        found[name] = x.grad
    assert values_V.grad is not None
    return found, values_V.grad


@settings(max_examples=40, deadline=None)
@given(mix=mixes())
def test_gradients_are_those_of_the_formula(mix: tuple[list[LoraWeights], list[tuple[int | None, int]]]) -> None:
    adapters, runs = mix
    bank, slots = bank_of(adapters, torch.float64)
    segments = segments_of(runs, slots)
    expected = plain_gradients(bank, segments)
    torch.testing.assert_close(gradients(bank, segments), expected, atol=1e-9, rtol=1e-9)


def test_an_adapters_gradients_are_the_same_bits_alone_and_among_others() -> None:
    """Beside others that come before and after it, be their weights ever so big."""
    mine = random_weights("mine", 8, MODULES, 1)
    alone, (slot,) = bank_of([mine], torch.float32)
    expected, expected_V = gradients(alone, Segments.of_runs([(slot, 6)]))
    bank, slots = bank_of([random_weights("other", 16, MODULES, 2, 1e30), mine], torch.float32)
    segments = Segments.of_runs([(slots[0], 5), (slots[1], 6), (None, 3)])
    bank.require_gradients()
    for name, group in bank.groups.items():
        generator = torch.Generator().manual_seed(len(name))
        x6 = torch.randn(6, group.group.in_features, generator=generator)
        weight6 = torch.randn(6, group.group.columns, generator=generator)
        x = torch.cat([torch.full((5, x6.shape[1]), 1e30), x6, x6[:3]]).requires_grad_()
        weight = torch.cat([weight6[:5], weight6, weight6[:3]])
        (added(x, group, segments) * weight).sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad[5:11], expected[name])
    start, count = alone.slot_range(slot)
    assert torch.equal(own_gradient(bank, slots[1]), expected_V[start : start + count])


def test_adapters_without_tokens_get_no_gradient() -> None:
    bank, slots = bank_of([random_weights(str(n), 8, MODULES, n) for n in range(3)], torch.float32)
    _, found_V = gradients(bank, Segments.of_runs([(slots[1], 4)]))
    start, count = bank.slot_range(slots[1])
    assert not found_V[:start].any()
    assert not found_V[start + count :].any()
    assert found_V[start : start + count].all()


def test_training_without_gradients_to_add_to_is_refused() -> None:
    bank, (slot,) = bank_of([random_weights("a", 8, MODULES, 0)], torch.float32)
    group = bank.groups[GROUPS[0].name]
    bank.values_V.requires_grad = True
    ones = torch.ones(2, group.group.in_features)
    result = added(ones, group, Segments.of_runs([(slot, 2)]))
    with pytest.raises(RuntimeError, match="give it gradients"):
        result.sum().backward()


def test_gradients_stay_their_adapters_when_others_come_and_go() -> None:
    """What is half gathered moves along when gaps are closed, and nobody inherits it."""
    bank, (first, second, third) = bank_of(
        [random_weights(str(n), 8, MODULES, n) for n in range(3)], torch.float32, spare=0
    )
    gradients(bank, Segments.of_runs([(first, 2), (second, 3), (third, 4)]))
    before = own_gradient(bank, second)
    bank.remove(first)
    bank.remove(third)
    newcomer = bank.add(HostAdapter.pack(random_weights("new", 16, MODULES, 4), GROUPS, torch.float32))
    assert bank.slot_range(second)[0] == 0
    assert torch.equal(own_gradient(bank, second), before)
    assert not own_gradient(bank, newcomer).any()


def own_gradient(bank: AdapterBank, slot: int) -> torch.Tensor:
    start, count = bank.slot_range(slot)
    assert bank.values_V.grad is not None
    return bank.values_V.grad[start : start + count].clone()


@pytest.mark.skipif(not available(), reason="no C++ compiler")
@pytest.mark.parametrize("threads", [1, 3])
@settings(max_examples=25, deadline=None)
@given(mix=mixes())
def test_the_native_gradients_are_those_of_segmented(
    threads: int, mix: tuple[list[LoraWeights], list[tuple[int | None, int]]]
) -> None:
    """And the same bits with any count of threads, each run of rows being a segment by itself."""
    adapters, runs = mix
    bank, slots = bank_of(adapters, torch.float32)
    segments = Segments.apart([(None if who is None else slots[who], count) for who, count in runs])
    for group in bank.groups.values():
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(segments.tokens, group.group.in_features, generator=generator)
        grad_y = torch.randn(segments.tokens, group.group.columns, generator=generator)
        found = []
        for op, count in ((OPS["segmented"], 1), (native, 1), (native, threads)):
            grads = [torch.ones_like(x), torch.ones_like(bank.values_V.detach())]
            before = torch.get_num_threads()
            torch.set_num_threads(count)
            op.backward(*grads, grad_y, x, group, segments)  # type: ignore[attr-defined]
            torch.set_num_threads(before)
            found.append(grads)
        for plain, ours, again in zip(*found, strict=True):
            torch.testing.assert_close(ours, plain, atol=2e-3, rtol=2e-4)
            assert torch.equal(ours, again)


@pytest.mark.skipif(not available(), reason="no C++ compiler")
def test_native_gradients_of_a_segment_are_the_same_bits_wherever_it_lies() -> None:
    mine, other = random_weights("mine", 13, MODULES, 1), random_weights("other", 40, MODULES, 2, 1e30)
    bank, slots = bank_of([other, mine], torch.float32)
    start, count = bank.slot_range(slots[1])
    for group in bank.groups.values():
        generator = torch.Generator().manual_seed(1)
        x70, grad_y70 = (
            torch.randn(70, size, generator=generator) for size in (group.group.in_features, group.group.columns)
        )
        found = []
        for before, after in ((0, 0), (3, 5), (41, 0)):
            runs = [(slots[0], before), (slots[1], 70), (slots[0], after)]
            x, grad_y = (
                torch.cat([torch.full((before, t.shape[1]), torch.nan), t, torch.full((after, t.shape[1]), torch.inf)])
                for t in (x70, grad_y70)
            )
            grad_x, grad_V = torch.zeros_like(x), torch.zeros_like(bank.values_V)
            native.backward(grad_x, grad_V, grad_y, x, group, Segments.apart(runs))
            found.append((grad_x[before : before + 70], grad_V[start : start + count]))
        assert all(torch.equal(*pair) for each in found[1:] for pair in zip(each, found[0], strict=True))
        assert all(grad.isfinite().all() for grad in found[0])


def test_the_base_counts_too_and_masked_rows_change_no_others() -> None:
    bank, (first, second) = bank_of([random_weights(str(n), 8, MODULES, n) for n in range(2)], torch.float32)
    bank.require_gradients()
    group = bank.groups[GROUPS[0].name]
    features, columns = group.group.in_features, group.group.columns
    generator = torch.Generator().manual_seed(5)
    product = PlainProduct(
        torch.randn(columns, features, generator=generator), torch.randn(columns, generator=generator)
    )
    x = torch.randn(7, features, generator=generator)
    weight = torch.randn(7, columns, generator=generator)
    segments = Segments.of_runs([(first, 4), (second, 3)])
    mask = torch.bernoulli(torch.full((3, features), 0.5), generator=generator) * 2

    def run(mask_tI: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = x.clone().requires_grad_()
        masked = () if mask_tI is None else ((slice(4, 7), mask_tI),)
        y = adapted(leaf, product, group, segments, masked=masked)
        (y * weight).sum().backward()
        assert leaf.grad is not None
        return y.detach(), leaf.grad

    plain, masked = run(None), run(mask)
    for one, other in zip(plain, masked, strict=True):
        assert torch.equal(one[:4], other[:4])
        assert not torch.equal(one[4:], other[4:])
    for one, other in zip(plain, run(torch.ones_like(mask)), strict=True):
        torch.testing.assert_close(one, other)
    double = x.double().requires_grad_()
    seen = torch.cat([double[:4], double[4:] * mask.double()])
    y = torch.nn.functional.linear(double, product.weight_OI.double(), product.bias_O.double())  # type: ignore[union-attr]
    column = 0
    for part, width in enumerate(group.group.out_features):
        for segment in segments.all:
            pair = group.pair(segment.slot, part)
            assert pair is not None
            more = seen[segment.span] @ pair[0].double().T @ pair[1].double() * group.scale_SP[segment.slot, part]
            y = y + torch.nn.functional.pad(
                more, (column, columns - column - width, segment.token, 7 - segment.token - segment.tokens)
            )
        column += width
    (y * weight).sum().backward()
    torch.testing.assert_close(masked[0].double(), y.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(masked[1].double(), double.grad, rtol=1e-4, atol=1e-4)
