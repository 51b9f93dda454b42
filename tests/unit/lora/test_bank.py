"""Who owns which numbers, and that moving them changes nothing."""

import pytest
import torch
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.lora_mixes import GROUPS, MODULES, bank_of, random_weights

from trellis.artifacts import ArtifactError
from trellis.bases import ALIGNMENT
from trellis.lora import AdapterBank, BankFullError, HostAdapter, LoraPair, LoraWeights
from trellis.lora.layout import Layout

ROWS, SLOTS = 64, 5


class Comings(RuleBasedStateMachine):
    """Adapters come and go at random; what is in the bank is always whole and nobody else's."""

    @initialize()
    def begin(self) -> None:
        self.bank = AdapterBank(GROUPS, ROWS, SLOTS, torch.float32)
        self.inside: dict[int, LoraWeights] = {}
        self.count = 0

    @rule(rank=st.integers(1, 40))
    def come(self, rank: int) -> None:
        self.count += 1
        weights = random_weights(str(self.count), rank, MODULES[self.count % 3 :], self.count)
        adapter = HostAdapter.pack(weights, GROUPS, torch.float32)
        used = sum(self.bank.slot_range(slot)[1] for slot in self.inside)
        fits = len(self.inside) < SLOTS and used + adapter.values <= self.bank.size
        assert self.bank.fits(adapter.values) == fits
        if fits:
            self.inside[self.bank.add(adapter)] = weights
        else:
            with pytest.raises(BankFullError):
                self.bank.add(adapter)

    @precondition(lambda self: self.inside)
    @rule(which=st.integers(0, SLOTS))
    def go(self, which: int) -> None:
        slot = sorted(self.inside)[which % len(self.inside)]
        self.bank.remove(slot)
        del self.inside[slot]

    @invariant()
    def all_are_whole(self) -> None:
        owned_V = torch.zeros(self.bank.size, dtype=torch.bool)
        for slot, weights in self.inside.items():
            start, count = self.bank.slot_range(slot)
            assert not owned_V[start : start + count].any()
            owned_V[start : start + count] = True
            assert self.bank.slot_rank(slot) == weights.rank
            found = self.bank.read(slot)
            assert found.pairs.keys() == weights.pairs.keys()
            for module, pair in weights.pairs.items():
                assert torch.equal(found.pairs[module].a_RI, pair.a_RI)
                assert torch.equal(found.pairs[module].b_OR, pair.b_OR)
                assert found.pairs[module].scaling == pytest.approx(pair.scaling)
        assert self.bank.values_free == int((~owned_V).sum())
        assert not self.bank.values_V[~owned_V].any()


Comings.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestComings = Comings.TestCase


def test_an_adapter_takes_its_rank_and_no_more() -> None:
    """On the linears that it adapts."""
    bank, _ = bank_of([random_weights("a", 9, MODULES, 0), random_weights("b", 1, MODULES, 1)], torch.bfloat16, spare=0)
    assert (bank.rows, bank.rows_used, bank.values_free) == (10, 10, 0)
    assert bank.values_V.nbytes == bank.rows * bank.bytes_per_row
    few = MODULES[:1]
    bank, (slot, _) = bank_of([random_weights("a", 9, few, 0), random_weights("b", 1, few, 1)], torch.bfloat16)
    assert bank.slot_range(slot) == (0, 9 * (16 + 24))


def test_parts_begin_where_kernels_read_whole_vectors() -> None:
    layout = Layout.of({"m.self_attn.q_proj": 1, "m.self_attn.v_proj": 3, "m.mlp.down_proj": 2}, GROUPS)
    assert layout.ranks == ((1, 0, 3), (0,), (0, 0), (2,))
    places = [place for group, ranks in zip(layout.places, layout.ranks, strict=True) for place in group]
    assert all(place % ALIGNMENT == 0 for place in places)
    assert (layout.values, layout.rank) == (40 + 72 + 112, 3)


def test_ranks_and_scales_that_differ_by_module_stay_their_modules() -> None:
    small, large = "m.self_attn.q_proj", "m.mlp.down_proj"
    pairs = {
        small: LoraPair(torch.ones(2, 16), torch.ones(24, 2), 0.5),
        large: LoraPair(torch.ones(12, 40), torch.ones(16, 12), 3.0),
    }
    bank, (slot,) = bank_of([LoraWeights("a", pairs)], torch.float32)
    qkv, down = bank.groups["m.self_attn.qkv"], bank.groups[large]
    assert qkv.scale_SP[slot].tolist() == [0.5, 0.0, 0.0]
    assert qkv.ranks_SP[slot].tolist() == [2, 0, 0]
    assert [
        None if pair is None else pair[0].shape for pair in (qkv.pair(slot, 0), qkv.pair(slot, 1), down.pair(slot, 0))
    ] == [(2, 16), None, (12, 40)]
    assert bank.slot_range(slot)[1] == 2 * (16 + 24) + 12 * (40 + 16)


def test_a_number_that_the_banks_dtype_does_not_have_is_refused() -> None:
    pair = LoraPair(torch.full((1, 16), 3.4e38), torch.ones(24, 1), 1.0)
    weights = LoraWeights("a", {"m.self_attn.q_proj": pair})
    HostAdapter.pack(weights, GROUPS, torch.float32)
    with pytest.raises(ArtifactError, match="bfloat16 does not have") as raised:
        HostAdapter.pack(weights, GROUPS, torch.bfloat16)
    assert raised.value.code == "not_finite"


def test_a_module_that_the_base_does_not_have_is_refused() -> None:
    weights = LoraWeights("a", {"m.lm_head": LoraPair(torch.ones(1, 16), torch.ones(8, 1), 1.0)})
    with pytest.raises(ArtifactError, match=r"'m.lm_head'"):
        HostAdapter.pack(weights, GROUPS, torch.float32)


@pytest.mark.parametrize("scaling", [1e8, float("inf"), float("nan")])
def test_weights_that_are_finite_only_before_they_are_scaled_are_refused(scaling: float) -> None:
    pair = LoraPair(torch.ones(1, 16), torch.full((24, 1), 1e33), scaling)
    with pytest.raises(ArtifactError, match=r"'m.self_attn.q_proj', alone or scaled"):
        HostAdapter.pack(LoraWeights("a", {"m.self_attn.q_proj": pair}), GROUPS, torch.float32)


@pytest.mark.parametrize(("a_shape", "b_shape"), [((2, 1), (24, 2)), ((2, 16), (24, 1)), ((0, 16), (24, 0))])
def test_sizes_that_are_not_the_linears_are_refused(a_shape: tuple[int, int], b_shape: tuple[int, int]) -> None:
    """Some of them would broadcast."""
    pair = LoraPair(torch.ones(a_shape), torch.ones(b_shape), 1.0)
    with pytest.raises(ArtifactError, match=r"'m.self_attn.q_proj' have the shapes .* 16 inputs and 24 outputs") as why:
        HostAdapter.pack(LoraWeights("a", {"m.self_attn.q_proj": pair}), GROUPS, torch.float32)
    assert why.value.code == "wrong_shape"


@pytest.mark.parametrize("rank", [1, 4])
def test_what_was_read_stays_as_it_was_while_training_goes_on(rank: int) -> None:
    bank, (slot,) = bank_of([weights := random_weights("a", rank, MODULES, 1)], torch.float32)
    read = bank.read(slot)
    bank.values_V.fill_(7.0)
    for module, pair in read.pairs.items():
        assert torch.equal(pair.a_RI, weights.pairs[module].a_RI)
        assert torch.equal(pair.b_OR, weights.pairs[module].b_OR)
