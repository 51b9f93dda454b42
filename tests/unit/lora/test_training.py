"""Gradients: right, and each adapter's from its own rows alone, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from tests.lora_mixes import GROUPS, MODULES, bank_of, mixes, random_weights, segments_of

from trellis.lora import OPS, AdapterBank, GroupBank, HostAdapter, LoraWeights, Segments, adapted
from trellis.lora.ops import native
from trellis.lora.products import PlainProduct
from trellis.native.build import available

Gradients = dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def added(x_TI: torch.Tensor, group: GroupBank, segments: Segments) -> torch.Tensor:
    """What the adapters add to a base that says nothing."""
    nothing = PlainProduct(x_TI.new_zeros(group.group.columns, group.group.in_features), None)
    return adapted(x_TI, nothing, group, segments)


def gradients(bank: AdapterBank, segments: Segments, x_scale: float = 1.0) -> Gradients:
    """Of x, A and B of every group, for a loss that weighs every output differently."""
    bank.require_gradients()
    found: Gradients = {}
    for name, group in bank.groups.items():
        generator = torch.Generator().manual_seed(len(name))
        x = torch.randn(segments.tokens, group.group.in_features, generator=generator, dtype=bank.dtype) * x_scale
        weight = torch.randn(segments.tokens, group.group.columns, generator=generator, dtype=bank.dtype)
        x.requires_grad_()
        (added(x, group, segments) * weight).sum().backward()
        assert x.grad is not None
        assert group.a_RPI.grad is not None
        assert group.b_RO.grad is not None
        found[name] = (x.grad, group.a_RPI.grad, group.b_RO.grad)
    return found


def plain_gradients(bank: AdapterBank, segments: Segments) -> Gradients:
    """The same by autograd over the formula."""
    found: Gradients = {}
    for name, group in bank.groups.items():
        generator = torch.Generator().manual_seed(len(name))
        x = torch.randn(
            segments.tokens, group.group.in_features, generator=generator, dtype=bank.dtype
        ).requires_grad_()
        weight = torch.randn(segments.tokens, group.group.columns, generator=generator, dtype=bank.dtype)
        a, b = (side.detach().clone().requires_grad_() for side in (group.a_RPI, group.b_RO))
        loss = x.sum() * 0 + a.sum() * 0 + b.sum() * 0
        for s in segments.all:
            columns = 0
            for part, width in enumerate(group.group.out_features):
                added = x[s.span] @ a[s.rank_rows, part].T @ b[s.rank_rows, columns : columns + width]
                loss = loss + (added * group.scale_SP[s.slot, part] * weight[s.span, columns : columns + width]).sum()
                columns += width
        loss.backward()
        assert x.grad is not None
        assert a.grad is not None
        assert b.grad is not None
        found[name] = (x.grad, a.grad, b.grad)
    return found


@settings(max_examples=40, deadline=None)
@given(mix=mixes())
def test_gradients_are_those_of_the_formula(mix: tuple[list[LoraWeights], list[tuple[int | None, int]]]) -> None:
    adapters, runs = mix
    bank, slots = bank_of(adapters, torch.float64)
    segments = segments_of(runs, slots, bank)
    expected = plain_gradients(bank, segments)
    for name, found in gradients(bank, segments).items():
        for ours, plain in zip(found, expected[name], strict=True):
            torch.testing.assert_close(ours, plain, atol=1e-9, rtol=1e-9)


def test_an_adapters_gradients_are_the_same_bits_alone_and_among_others() -> None:
    """Beside others that come before and after it, be their weights ever so big."""
    mine = random_weights("mine", 8, MODULES, 1)
    alone, (slot,) = bank_of([mine], torch.float32)
    expected = gradients(alone, Segments.of_runs([(slot, 6)], alone))
    bank, slots = bank_of([random_weights("other", 16, MODULES, 2, 1e30), mine], torch.float32)
    segments = Segments.of_runs([(slots[0], 5), (slots[1], 6), (None, 3)], bank)
    start, count = bank.slot_rows(slots[1])
    bank.require_gradients()
    for name, group in bank.groups.items():
        generator = torch.Generator().manual_seed(len(name))
        x6 = torch.randn(6, group.group.in_features, generator=generator)
        weight6 = torch.randn(6, group.group.columns, generator=generator)
        x = torch.cat([torch.full((5, x6.shape[1]), 1e30), x6, x6[:3]]).requires_grad_()
        weight = torch.cat([weight6[:5], weight6, weight6[:3]])
        (added(x, group, segments) * weight).sum().backward()
        assert x.grad is not None
        assert group.a_RPI.grad is not None
        assert group.b_RO.grad is not None
        grad_x, grad_a, grad_b = expected[name]
        assert torch.equal(x.grad[5:11], grad_x)
        assert torch.equal(group.a_RPI.grad[start : start + count], grad_a[:count])
        assert torch.equal(group.b_RO.grad[start : start + count], grad_b[:count])


def test_rows_without_tokens_get_no_gradient() -> None:
    bank, slots = bank_of([random_weights(str(n), 8, MODULES, n) for n in range(3)], torch.float32)
    found = gradients(bank, Segments.of_runs([(slots[1], 4)], bank))
    start, count = bank.slot_rows(slots[1])
    idle = [row for row in range(bank.rows) if not start <= row < start + count]
    assert all(not a[idle].any() and not b[idle].any() and a[start].any() for _, a, b in found.values())


def test_training_without_gradients_to_add_to_is_refused() -> None:
    bank, (slot,) = bank_of([random_weights("a", 8, MODULES, 0)], torch.float32)
    group = bank.groups[GROUPS[0].name]
    group.a_RPI.requires_grad = True
    ones = torch.ones(2, group.group.in_features)
    result = added(ones, group, Segments.of_runs([(slot, 2)], bank))
    with pytest.raises(RuntimeError, match="give the bank gradients"):
        result.sum().backward()


def test_gradients_stay_their_adapters_when_others_come_and_go() -> None:
    """What is half gathered moves along when gaps are closed, and nobody inherits it."""
    bank, (first, second, third) = bank_of(
        [random_weights(str(n), 8, MODULES, n) for n in range(3)], torch.float32, spare=0
    )
    gradients(bank, Segments.of_runs([(first, 2), (second, 3), (third, 4)], bank))
    before = own_gradients(bank, second)
    bank.remove(first)
    bank.remove(third)
    newcomer = bank.add(HostAdapter.pack(random_weights("new", 16, MODULES, 4), GROUPS, torch.float32))
    assert bank.slot_rows(second) == (0, 8)
    assert all(torch.equal(*pair) for pair in zip(own_gradients(bank, second), before, strict=True))
    assert not any(gradient.any() for gradient in own_gradients(bank, newcomer))


def own_gradients(bank: AdapterBank, slot: int) -> list[torch.Tensor]:
    start, count = bank.slot_rows(slot)
    sides = [side.grad for group in bank.groups.values() for side in (group.a_RPI, group.b_RO)]
    return [gradient[start : start + count].clone() for gradient in sides if gradient is not None]


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
    segments = Segments.apart([(None if who is None else slots[who], count) for who, count in runs], bank)
    for group in bank.groups.values():
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(segments.tokens, group.group.in_features, generator=generator)
        grad_y = torch.randn(segments.tokens, group.group.columns, generator=generator)
        found = []
        for op, count in ((OPS["segmented"], 1), (native, 1), (native, threads)):
            grads = [torch.ones_like(x), torch.ones_like(group.a_RPI), torch.ones_like(group.b_RO)]
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
    start, rows = bank.slot_rows(slots[1])
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
            grads = [torch.zeros_like(x), torch.zeros_like(group.a_RPI), torch.zeros_like(group.b_RO)]
            native.backward(grads[0], grads[1], grads[2], grad_y, x, group, Segments.apart(runs, bank))
            found.append([grads[0][before : before + 70], *(grad[start : start + rows] for grad in grads[1:])])
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
    segments = Segments.of_runs([(first, 4), (second, 3)], bank)
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
            shrunk = seen[segment.span] @ group.a_RPI[segment.rank_rows, part].double().T
            more = (
                shrunk
                @ group.b_RO[segment.rank_rows, column : column + width].double()
                * group.scale_SP[segment.slot, part]
            )
            y = y + torch.nn.functional.pad(
                more, (column, columns - column - width, segment.token, 7 - segment.token - segment.tokens)
            )
        column += width
    (y * weight).sum().backward()
    torch.testing.assert_close(masked[0].double(), y.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(masked[1].double(), double.grad, rtol=1e-4, atol=1e-4)
