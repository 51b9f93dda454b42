"""Banks of random adapters, and random batches over them."""

from collections.abc import Sequence

import torch
from hypothesis import strategies as st

from trellis.lora import AdapterBank, HostAdapter, LoraPair, LoraWeights, Segments, find_groups

SHAPES = {
    "m.self_attn.q_proj": (24, 16),
    "m.self_attn.k_proj": (8, 16),
    "m.self_attn.v_proj": (8, 16),
    "m.self_attn.o_proj": (16, 24),
    "m.mlp.gate_proj": (40, 16),
    "m.mlp.up_proj": (40, 16),
    "m.mlp.down_proj": (16, 40),
}
GROUPS = find_groups(SHAPES)
MODULES = tuple(SHAPES)


def random_weights(digest: str, rank: int, modules: Sequence[str], seed: int, scale: float = 1.0) -> LoraWeights:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    pairs = {m: LoraPair(random(rank, SHAPES[m][1]), random(SHAPES[m][0], rank), 2.0 / rank) for m in modules}
    return LoraWeights(digest, pairs)


def bank_of(adapters: Sequence[LoraWeights], dtype: torch.dtype, spare: int = 8) -> tuple[AdapterBank, list[int]]:
    """A bank that holds the adapters, and their slots."""
    packed = [HostAdapter.pack(weights, GROUPS, dtype) for weights in adapters]
    rows = -(-sum(adapter.values for adapter in packed) // sum(group.row_values for group in GROUPS))
    bank = AdapterBank(GROUPS, rows + spare, len(adapters) + 1, dtype)
    return bank, [bank.add(adapter) for adapter in packed]


@st.composite
def mixes(draw: st.DrawFn) -> tuple[list[LoraWeights], list[tuple[int | None, int]]]:
    """Adapters of mixed ranks and targets, and runs of rows by the adapter's number."""
    targets = st.lists(st.sampled_from(MODULES), min_size=1, unique=True)
    adapters = [
        random_weights(str(number), draw(st.integers(1, 64)), draw(targets), seed=number)
        for number in range(draw(st.integers(1, 5)))
    ]
    who = st.one_of(st.none(), st.integers(0, len(adapters) - 1))
    runs = draw(st.lists(st.tuples(who, st.integers(1, 40)), min_size=1, max_size=6))
    return adapters, runs


def segments_of(runs: Sequence[tuple[int | None, int]], slots: Sequence[int]) -> Segments:
    """Runs of the adapters' numbers as segments of their slots."""
    return Segments.of_runs([(None if who is None else slots[who], count) for who, count in runs])
