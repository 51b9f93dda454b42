"""A slot's optimizer is AdamW over the slot's own rows, wherever they are."""

import pytest
import torch
from tests.lora_mixes import GROUPS, MODULES, SHAPES, random_weights

from trellis.lora import AdapterBank, LoraWeights
from trellis.spec import TrainSpec
from trellis_jobs.shared.optimizer import SlotOptimizer, bytes_per_lora_parameter, lora_parameters
from trellis_jobs.shared.slots import Slots

SPEC = TrainSpec(
    "", "", "", "", "", "", 64, learning_rate=1e-2, weight_decay=0.1, warmup_ratio=0.0, schedule="constant"
)


def make_slots(rows: int = 64) -> Slots:
    bank = AdapterBank(GROUPS, rows, 4, torch.float32)
    bank.require_gradients()
    return Slots(bank)


def give_gradients(optimizer: SlotOptimizer, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for parameter in optimizer.parameters.values():
        assert parameter.grad is not None
        parameter.grad += torch.randn(parameter.shape, generator=generator)
    return {name: parameter.grad.clone() for name, parameter in optimizer.parameters.items()}  # type: ignore[union-attr]


def values(weights: LoraWeights) -> list[torch.Tensor]:
    return [side for pair in weights.pairs.values() for side in (pair.a_RI, pair.b_OR)]


def same(left: LoraWeights, right: LoraWeights) -> bool:
    return all(torch.equal(one, other) for one, other in zip(values(left), values(right), strict=True))


def test_steps_are_those_of_adamw_over_plain_tensors() -> None:
    slots = make_slots()
    slot, optimizer = slots.add(random_weights("a", 12, MODULES, seed=1), SPEC)
    plain = {name: torch.nn.Parameter(p.detach().clone()) for name, p in optimizer.parameters.items()}
    reference = torch.optim.AdamW(plain.values(), lr=1e-2, weight_decay=0.1)
    for step in range(10):
        gradients = give_gradients(optimizer, step)
        for name, parameter in plain.items():
            parameter.grad = gradients[name]
        expected = torch.nn.utils.clip_grad_norm_(plain.values(), 1.0)
        assert optimizer.clip() == pytest.approx(float(expected))
        reference.step()
        assert optimizer.step(step, 10) == 1e-2
    for name, parameter in optimizer.parameters.items():
        torch.testing.assert_close(parameter.data, plain[name].data, atol=1e-6, rtol=1e-5)
    start, count = slots.bank.slot_rows(slot)
    assert count == 16
    for bank in slots.bank.groups.values():
        for side in (bank.a_RPI, bank.b_RO):
            assert not side.detach()[start + 12 : start + 16].any()  # the padding of rank 12
            assert side.grad is not None
            assert not side.grad.any()


def test_a_step_leaves_the_neighbours_weights_and_gradients_alone() -> None:
    slots = make_slots()
    one, first = slots.add(random_weights("a", 8, MODULES, seed=1), SPEC)
    other, second = slots.add(random_weights("b", 8, MODULES[:2], seed=2), SPEC)
    gradients = give_gradients(second, 5)
    before = slots.bank.read(other, 8)
    give_gradients(first, 6)
    first.clip()
    first.step(0, 1)
    assert same(slots.bank.read(other, 8), before)
    assert all(torch.equal(p.grad, gradients[n]) for n, p in second.parameters.items())  # type: ignore[arg-type]
    assert not same(slots.bank.read(one, 8), random_weights("a", 8, MODULES, seed=1))


def moved_run(*, moves: bool, restores: bool = False) -> LoraWeights:
    """Six steps; half way the slot's rows move, or a new optimizer goes on with the old one's state."""
    slots = make_slots(rows=32)
    gap, _ = slots.add(random_weights("gap", 8, MODULES, seed=9), SPEC)
    slot, optimizer = slots.add(random_weights("a", 8, MODULES, seed=1), SPEC)
    start = slots.bank.slot_rows(slot)[0]
    for step in range(6):
        give_gradients(optimizer, step)
        if step == 3 and moves:
            slots.remove(gap)
            slots.add(random_weights("large", 24, MODULES, seed=8), SPEC)  # gaps are closed for it
            assert slots.bank.slot_rows(slot)[0] != start
        optimizer.clip()
        optimizer.step(step, 6)
        if step == 2 and restores:
            state, weights = optimizer.state(), slots.bank.read(slot, 8)
            slots.remove(slot)
            slot, optimizer = slots.add(weights, SPEC)
            optimizer.restore(state)
    return slots.bank.read(slot, 8)


def test_an_optimizer_follows_its_rows_with_its_state() -> None:
    expected = moved_run(moves=False)
    assert same(moved_run(moves=True), expected)
    assert same(moved_run(moves=False, restores=True), expected)


def test_a_state_of_another_shape_is_refused() -> None:
    slots = make_slots()
    _, first = slots.add(random_weights("a", 8, MODULES, seed=1), SPEC)
    _, second = slots.add(random_weights("b", 16, MODULES, seed=1), SPEC)
    give_gradients(first, 1)
    first.step(0, 1)
    with pytest.raises(ValueError, match=r"moments of .* have the shape"):
        second.restore(first.state())
    with pytest.raises(LookupError):
        second.restore({})


def test_a_job_takes_16_bytes_a_number_and_little_more() -> None:
    slots = make_slots()
    slot, optimizer = slots.add(random_weights("a", 16, MODULES, seed=1), SPEC)
    give_gradients(optimizer, 1)
    optimizer.step(0, 1)
    numbers = sum(ins + out for out, ins in SHAPES.values())
    assert lora_parameters(slots.bank, slot, 16) == 16 * numbers
    assert 16 <= bytes_per_lora_parameter(slots.bank, slot, 16, optimizer) < 16.1
