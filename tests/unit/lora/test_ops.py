"""Every op gives what `reference` gives, and keeps neighbours apart."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.lora_mixes import GROUPS, MODULES, bank_of, mixes, random_weights, segments_of

from trellis.lora import OPS, HostAdapter, LoraWeights, Segments
from trellis.lora.ops import choose, choose_for_training, native

CPU = torch.device("cpu")
NAMES = [name for name in OPS if name not in {"reference", "triton"}]  # Triton's has tests of its own, interpreted
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def batch(rows: int, features: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(seed)).to(dtype)


def skip_unsupported(name: str, dtype: torch.dtype) -> None:
    if not OPS[name].supports(CPU, dtype):
        pytest.skip(f"{name} does not work with {dtype} on this CPU")


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(mix=mixes(), seed=st.integers(0, 99))
def test_an_op_gives_what_the_reference_gives(
    name: str, dtype: torch.dtype, mix: tuple[list[LoraWeights], list[tuple[int | None, int]]], seed: int
) -> None:
    skip_unsupported(name, dtype)
    adapters, runs = mix
    bank, slots = bank_of(adapters, dtype)
    segments = segments_of(runs, slots)
    for group in bank.groups.values():
        x = batch(segments.tokens, group.group.in_features, dtype, seed)
        y = batch(segments.tokens, group.group.columns, dtype, seed + 1)
        expected, found = y.clone(), y.clone()
        OPS["reference"].add_lora(expected, x, group, segments)
        OPS[name].add_lora(found, x, group, segments)
        size = float((expected - y).abs().max()) + 1.0
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(found, expected, atol=tolerance * size, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_neighbours_weights_and_rows_change_no_bit_of_others(name: str, dtype: torch.dtype) -> None:
    """Weights so big that the neighbour's answer is infinite, and rows that are NaN already."""
    skip_unsupported(name, dtype)
    runs = [(0, 3), (None, 2), (1, 4), (2, 1)]
    others = [row for row in range(10) if not 5 <= row < 9]

    def results(scale: float, poison: float) -> list[torch.Tensor]:
        adapters = [random_weights(str(n), 8, MODULES, n, scale if n == 1 else 1.0) for n in range(3)]
        bank, slots = bank_of(adapters, dtype)
        segments = segments_of(runs, slots)
        found = []
        for group in bank.groups.values():
            x = batch(10, group.group.in_features, dtype, 1)
            x[5] *= poison
            y = batch(10, group.group.columns, dtype, 2)
            OPS[name].add_lora(y, x, group, segments)
            found.append(y)
        return found

    for calm, wild in zip(results(1.0, 1.0), results(1e37, float("nan")), strict=True):
        assert not torch.isfinite(wild[5:9]).all()
        assert torch.equal(calm[others], wild[others])


@pytest.mark.parametrize("name", ["reference", *NAMES])
def test_nothing_is_added_where_no_row_has_an_adapter(name: str) -> None:
    bank, _ = bank_of([random_weights("a", 8, MODULES, 0)], torch.bfloat16)
    segments = Segments.of_runs([(None, 4)])
    assert segments.is_empty
    for group in bank.groups.values():
        y = batch(4, group.group.columns, torch.bfloat16, 0)
        before = y.clone()
        OPS[name].add_lora(y, batch(4, group.group.in_features, torch.bfloat16, 1), group, segments)
        assert torch.equal(y, before)


@pytest.mark.parametrize("dtype", [*DTYPES.values(), torch.float16], ids=[*DTYPES, "float16"])
def test_the_plan_has_an_op_for_every_step(dtype: torch.dtype) -> None:
    assert choose(CPU, dtype) is (native if native.supports(CPU, dtype) else OPS["segmented"])
    expected = OPS["native"] if dtype == torch.float32 and native.supports(CPU, dtype) else OPS["segmented"]
    assert choose_for_training(CPU, dtype) is expected


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("name", ["reference", *NAMES])
def test_a_row_is_the_same_bits_after_its_adapter_was_moved(name: str, dtype: torch.dtype) -> None:
    skip_unsupported(name, dtype)
    bank, slots = bank_of([random_weights(str(n), 8, MODULES, n) for n in range(4)], dtype, spare=0)

    def results() -> list[torch.Tensor]:
        segments = segments_of([(1, 3), (None, 2), (3, 20)], slots)
        found = []
        for group in bank.groups.values():
            y = batch(segments.tokens, group.group.columns, dtype, 2)
            OPS[name].add_lora(y, batch(segments.tokens, group.group.in_features, dtype, 1), group, segments)
            found.append(y)
        return found

    bank.remove(slots[0])
    bank.remove(slots[2])
    before = results()
    bank.add(HostAdapter.pack(random_weights("new", 16, MODULES, 9), GROUPS, dtype))
    assert [bank.slot_range(slots[n])[0] for n in (1, 3)] == [0, bank.slot_range(slots[1])[1]]
    for old, new in zip(before, results(), strict=True):
        assert torch.equal(new, old)


def test_rows_in_any_order_are_sorted_by_adapter_and_stay_in_order_within() -> None:
    _, (first, second) = bank_of([random_weights(str(n), 8, MODULES, n) for n in range(2)], torch.float32)
    order, segments = Segments.sort([second, None, first, second, first])
    assert order.tolist() == [1, 2, 4, 0, 3]
    assert [(s.slot, s.token, s.tokens) for s in segments.all] == [(first, 1, 2), (second, 3, 2)]
    assert segments.table.tolist() == [[1, 2, first], [3, 2, second]]


def test_neighbouring_runs_of_one_adapter_are_one_segment() -> None:
    _, (slot,) = bank_of([random_weights("a", 3, MODULES, 0)], torch.float32)
    segments = Segments.of_runs([(slot, 2), (slot, 1), (None, 0), (None, 3), (slot, 0)])
    assert [(s.token, s.tokens) for s in segments.all] == [(0, 3)]
    assert segments.tokens == 6


def test_groups_fuse_what_reads_the_same_input() -> None:
    assert [(group.name, len(group.parts)) for group in GROUPS] == [
        ("m.self_attn.qkv", 3),
        ("m.self_attn.o_proj", 1),
        ("m.mlp.gate_up", 2),
        ("m.mlp.down_proj", 1),
    ]
