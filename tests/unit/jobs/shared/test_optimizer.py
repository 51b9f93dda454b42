"""A slot's optimizer is AdamW over the slot's own numbers, wherever they are."""

from collections.abc import Mapping

import pytest
import torch
from safetensors.torch import load, save
from tests.lora_mixes import GROUPS, MODULES, SHAPES, random_weights
from torch import Tensor

from trellis.lora import AdapterBank, LoraPair, LoraWeights, find_groups
from trellis.spec import TrainSpec
from trellis_jobs.shared.optimizer import bytes_per_lora_parameter, lora_parameters
from trellis_jobs.shared.slots import Slots

SPEC = TrainSpec(
    "", "", "", "", "", "", 64, learning_rate=1e-2, weight_decay=0.1, warmup_ratio=0.0, schedule="constant"
)
TARGETS = {"all": MODULES, "q and v": (MODULES[0], MODULES[2]), "q": MODULES[:1]}


def make_slots(rows: int = 64) -> Slots:
    bank = AdapterBank(GROUPS, rows, 4, torch.float32)
    bank.require_gradients()
    return Slots(bank)


def pairs_of(slots: Slots, slot: int) -> dict[str, tuple[Tensor, Tensor]]:
    """By side and module the slot's weights in the bank, and their gradients: what is trained, without what fills up."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for bank in slots.bank.groups.values():
        for number, part in enumerate(bank.group.parts):
            pair = bank.pair(slot, number)
            if pair is not None:
                grads = bank.grad_pair(slot, number)
                assert grads is not None
                found |= {f"{part}.{side}": one for side, one in zip("AB", zip(pair, grads, strict=True), strict=True)}
    return found


def give_gradients(slots: Slots, slot: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _, gradient in pairs_of(slots, slot).values():
        gradient.add_(torch.randn(gradient.shape, generator=generator))
    return {name: gradient.clone() for name, (_, gradient) in pairs_of(slots, slot).items()}


def between(slots: Slots, slot: int) -> Tensor:
    """Which of the slot's numbers are no part's."""
    start, count = slots.bank.slot_range(slot)
    base = slots.bank.values_V.data_ptr() // 4 + start
    empty = torch.ones(count, dtype=torch.bool)
    for weight, _ in pairs_of(slots, slot).values():
        first = weight.data_ptr() // 4 - base
        assert empty[first : first + weight.numel()].all()
        empty[first : first + weight.numel()] = False
    return empty


def values(weights: LoraWeights) -> list[Tensor]:
    return [side for pair in weights.pairs.values() for side in (pair.a_RI, pair.b_OR)]


def same(left: LoraWeights, right: LoraWeights) -> bool:
    return all(torch.equal(one, other) for one, other in zip(values(left), values(right), strict=True))


@pytest.mark.parametrize("rank", [1, 3, 12])
@pytest.mark.parametrize("targets", TARGETS)
def test_steps_are_those_of_adamw_over_plain_tensors(targets: str, rank: int) -> None:
    slots = make_slots()
    slot, optimizer = slots.add(random_weights("a", rank, TARGETS[targets], seed=1), SPEC)
    plain = {name: torch.nn.Parameter(weight.clone()) for name, (weight, _) in pairs_of(slots, slot).items()}
    assert len(plain) == 2 * len(TARGETS[targets])
    reference = torch.optim.AdamW(plain.values(), lr=1e-2, weight_decay=0.1)
    for step in range(10):
        gradients = give_gradients(slots, slot, step)
        for name, parameter in plain.items():
            parameter.grad = gradients[name]
        expected = torch.nn.utils.clip_grad_norm_(plain.values(), 1.0)
        assert optimizer.clip() == pytest.approx(float(expected))
        reference.step()
        assert optimizer.step(step, 10) == 1e-2
    for name, (weight, gradient) in pairs_of(slots, slot).items():
        torch.testing.assert_close(weight, plain[name].data, atol=1e-6, rtol=1e-5)
        assert not gradient.any()
    assert optimizer.parameter.numel() == slots.bank.slot_range(slot)[1]
    assert not optimizer.parameter.detach()[between(slots, slot)].any()


def test_what_fills_a_slot_up_stays_zero() -> None:
    shapes = {"one": (7, 5), "other": (3, 10)}
    bank = AdapterBank(find_groups(shapes), 8, 2, torch.float32)
    bank.require_gradients()
    slots = Slots(bank)
    pairs = {path: LoraPair(torch.randn(1, ins), torch.randn(outs, 1), 2.0) for path, (outs, ins) in shapes.items()}
    slot, optimizer = slots.add(LoraWeights("", pairs), SPEC)
    for step in range(3):
        give_gradients(slots, slot, step)
        optimizer.clip()
        optimizer.step(step, 3)
    filling = between(slots, slot)
    assert int(filling.sum()) == optimizer.parameter.numel() - (7 + 5 + 3 + 10) > 0
    moments = optimizer._optimizer.state[optimizer.parameter]
    for kept in (optimizer.parameter.detach(), moments["exp_avg"], moments["exp_avg_sq"]):
        assert not kept[filling].any()
        assert kept[~filling].all()


def test_a_step_leaves_the_neighbours_weights_and_gradients_alone() -> None:
    slots = make_slots()
    one, first = slots.add(random_weights("a", 8, MODULES, seed=1), SPEC)
    other, _ = slots.add(random_weights("b", 8, MODULES[:2], seed=2), SPEC)
    gradients = give_gradients(slots, other, 5)
    before = slots.bank.read(other)
    give_gradients(slots, one, 6)
    first.clip()
    first.step(0, 1)
    assert same(slots.bank.read(other), before)
    assert all(torch.equal(gradient, gradients[name]) for name, (_, gradient) in pairs_of(slots, other).items())
    assert not same(slots.bank.read(one), random_weights("a", 8, MODULES, seed=1))


@pytest.mark.parametrize("size", [1, 1000, 70_000, 3_000_000])
def test_norms_are_exact_however_large_a_job_is(size: int) -> None:
    slots = make_slots()
    _, optimizer = slots.add(random_weights("a", 8, MODULES, seed=1), SPEC)
    gradient = torch.randn(size, generator=torch.Generator().manual_seed(size))
    optimizer.parameter = torch.nn.Parameter(torch.zeros(size))
    optimizer.parameter.grad = gradient.clone()
    expected = float(gradient.double().norm())
    assert optimizer.clip() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(optimizer.parameter.grad, gradient * min(1.0, 1.0 / (expected + 1e-6)))


def moved_run(targets: str, *, moves: bool, restores: bool = False, by_group: bool = False) -> LoraWeights:
    """Six steps; half way the slot's numbers move, or a new optimizer goes on with the old one's state."""
    slots = make_slots(rows=32)
    gap, _ = slots.add(random_weights("gap", 8, MODULES, seed=9), SPEC)
    slot, optimizer = slots.add(random_weights("a", 8, TARGETS[targets], seed=1), SPEC)
    start, count = slots.bank.slot_range(slot)
    for step in range(6):
        give_gradients(slots, slot, step)
        if step == 3 and moves:
            slots.remove(gap)
            slots.add(random_weights("large", 32 - -(-count // slots.bank.row_values), MODULES, seed=8), SPEC)
            assert slots.bank.slot_range(slot) != (start, count), "gaps were closed"
        optimizer.clip()
        optimizer.step(step, 6)
        if step == 2 and restores:
            state, weights = load(save(optimizer.state())), slots.bank.read(slot)
            slots.remove(slot)
            slots.add(random_weights("first", 3, MODULES[:3], seed=7), SPEC)  # so that it lies elsewhere
            slot, optimizer = slots.add(weights, SPEC)
            optimizer.restore(as_by_group(state) if by_group else state)
    return slots.bank.read(slot)


@pytest.mark.parametrize("targets", TARGETS)
def test_an_optimizer_follows_its_numbers_with_its_state(targets: str) -> None:
    expected = moved_run(targets, moves=False)
    assert same(moved_run(targets, moves=True), expected)
    assert same(moved_run(targets, moves=False, restores=True), expected)


def as_by_group(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As it was written at first: one tensor for each group's A and one for its B, zeros where a part is left alone."""
    found: dict[str, Tensor] = {}
    for group in GROUPS:
        own = [f"{part}.A.exp_avg" in state for part in group.parts]
        if not any(own):
            continue
        for key in ("exp_avg", "exp_avg_sq"):
            sides_of = [
                (state[f"{part}.A.{key}"], state[f"{part}.B.{key}"])
                if there
                else (torch.zeros(8, group.in_features), torch.zeros(8, outs))
                for part, outs, there in zip(group.parts, group.out_features, own, strict=True)
            ]
            found[f"{group.name}.A.{key}"] = torch.stack([a for a, _ in sides_of], 1)
            found[f"{group.name}.B.{key}"] = torch.cat([b for _, b in sides_of], 1)
        found |= {f"{group.name}.{side}.step": state["step"].clone() for side in "AB"}
    return found


@pytest.mark.parametrize("targets", TARGETS)
def test_checkpoints_with_moments_by_group_are_read(targets: str) -> None:
    """As they were written before ADR 0024; with names and shapes written out for rank 8 on q and v of one layer."""
    assert same(moved_run(targets, moves=False, restores=True, by_group=True), moved_run(targets, moves=False))
    slots = make_slots()
    _, optimizer = slots.add(random_weights("a", 8, TARGETS["q and v"], seed=1), SPEC)
    shapes = {"A": (8, 3, 16), "B": (8, 24 + 8 + 8)}
    old = {
        f"m.self_attn.qkv.{side}.{key}": torch.randn(shape, generator=torch.Generator().manual_seed(len(key)))
        for side, shape in shapes.items()
        for key in ("exp_avg", "exp_avg_sq")
    } | {f"m.self_attn.qkv.{side}.step": torch.tensor(7.0) for side in shapes}
    optimizer.restore(old)
    state = optimizer.state()
    assert state["step"] == 7
    assert state.keys() == {"step"} | {
        f"m.self_attn.{name}_proj.{side}.{key}" for name in "qv" for side in "AB" for key in ("exp_avg", "exp_avg_sq")
    }
    for key in ("exp_avg", "exp_avg_sq"):
        a, b = old[f"m.self_attn.qkv.A.{key}"], old[f"m.self_attn.qkv.B.{key}"]
        assert torch.equal(state[f"m.self_attn.q_proj.A.{key}"], a[:, 0])
        assert torch.equal(state[f"m.self_attn.v_proj.A.{key}"], a[:, 2])
        assert torch.equal(state[f"m.self_attn.q_proj.B.{key}"], b[:, :24])
        assert torch.equal(state[f"m.self_attn.v_proj.B.{key}"], b[:, 32:])


def test_a_state_of_another_shape_is_refused() -> None:
    slots = make_slots()
    one, first = slots.add(random_weights("a", 8, MODULES, seed=1), SPEC)
    _, second = slots.add(random_weights("b", 16, MODULES, seed=1), SPEC)
    assert first.state() == {}
    give_gradients(slots, one, 1)
    first.step(0, 1)
    for state in (first.state(), as_by_group(first.state())):
        with pytest.raises(ValueError, match=r"moments of .* have the shape"):
            second.restore(state)
        with pytest.raises(LookupError):
            second.restore({name: value for name, value in state.items() if "q_proj" not in name and "qkv" not in name})
    with pytest.raises(LookupError):
        second.restore({})


def test_weights_of_the_same_shape_take_the_place_of_others() -> None:
    slots = make_slots()
    _, _ = slots.add(random_weights("a", 5, MODULES, seed=1), SPEC)
    slot, optimizer = slots.add(random_weights("b", 3, MODULES[2:5], seed=1), SPEC)
    other = slots.bank.read(0 if slot else 1)
    better = random_weights("c", 3, MODULES[2:5], seed=9)
    slots.overwrite(slot, better)
    assert same(slots.bank.read(slot), better)
    assert same(slots.bank.read(0 if slot else 1), other)
    assert optimizer.parameter.requires_grad


@pytest.mark.parametrize("rank", [4, 16])
@pytest.mark.parametrize("targets", TARGETS)
def test_a_job_takes_16_bytes_a_number_and_little_more(targets: str, rank: int) -> None:
    slots = make_slots()
    slot, optimizer = slots.add(random_weights("a", rank, TARGETS[targets], seed=1), SPEC)
    give_gradients(slots, slot, 1)
    optimizer.step(0, 1)
    numbers = sum(sum(SHAPES[module]) for module in TARGETS[targets])
    assert lora_parameters(slots.bank, slot) == rank * numbers
    assert 16 <= bytes_per_lora_parameter(slots.bank, slot, optimizer) < 16.1
