"""In float32 a sequence gets the same bits wherever it stands, whatever stands beside it, on any count of threads."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from tests.tiny_families import FAMILIES, write_tiny_model
from torch import Tensor
from transformers import GemmaConfig, LlamaConfig, Phi3Config, PretrainedConfig

from trellis.bases import BaseFacts, read_base
from trellis.engine.batch import Piece
from trellis.engine.request import Sampling
from trellis.engine.runner import Runner, RunnerLimits
from trellis.engine.sampler import Choice, Sampler, choose
from trellis.lora.host import HostAdapter
from trellis.lora.weights import LoraPair, LoraWeights
from trellis.native.linear import takes

THREADS: Final = (1, 2, 3)
PLACES: Final = ((0, 0), (1, 0), (0, 1), (2, 3), (3, 1), (5, 11), (16, 0), (19, 20))
"""Sequences before and behind."""
BEFORE: Final = 6
"""Tokens that every sequence has in the cache."""
BLOCKS: Final = 3
ODD: Final[dict[str, Any]] = {
    "vocab_size": 1009,
    "hidden_size": 72,
    "intermediate_size": 1100,
    "num_hidden_layers": 1,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
"""No multiples of what a CPU computes at once, and so wide that a step is shared by several threads."""
CONFIGS: Final[dict[str, Callable[[], PretrainedConfig]]] = {
    **{name: FAMILIES[name] for name in ("llama_bias", "qwen3", "gemma2", "phi")},
    "wide_llama": lambda: LlamaConfig(**ODD),
    "wide_gemma": lambda: GemmaConfig(**ODD, head_dim=12),
    "wide_phi3": lambda: Phi3Config(**ODD, sliding_window=None),
}


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=CONFIGS)
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> "_House":
    if not takes(torch.zeros(16, 16)):
        pytest.skip("Without AVX-512 a row's last bits go by its place, as docs/adr/0022 says.")
    folder = write_tiny_model(tmp_path_factory.mktemp("bases") / request.param, CONFIGS[request.param]())
    return _House(read_base(str(folder)))


class _House:
    """A runner with three adapters: of the sequence in question, of others before it, and of others behind it."""

    def __init__(self, facts: BaseFacts) -> None:
        self.vocabulary = facts.vocabulary_size
        self.runner = Runner.load(facts, RunnerLimits(kv_blocks=41 * BLOCKS, bank_rows=32, max_slots=4))
        self.slots = [self._add(facts, number, rank) for number, rank in enumerate((8, 5, 16))]

    def _add(self, facts: BaseFacts, seed: int, rank: int) -> int:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator) * 0.2

        pairs = {path: LoraPair(draw(rank, i), draw(o, rank), 1.5) for path, (o, i) in facts.linear_shapes.items()}
        groups = tuple(bank.group for bank in self.runner.bank.groups.values())
        return self.runner.bank.add(HostAdapter.pack(LoraWeights(str(seed), pairs), groups, self.runner.dtype))

    def piece(self, number: int, slot: int | None, start: int, count: int) -> Piece:
        drawn = torch.randint(1, self.vocabulary, (64,), generator=torch.Generator().manual_seed(number)).tolist()
        blocks = range(number * BLOCKS, (number + 1) * BLOCKS)
        return Piece(drawn[start : start + count], start, blocks, slot, wants_logits=True)

    def step(self, slot: int | None, count: int, before: int, behind: int) -> Tensor:
        """The logits of the sequence in question, its next `count` tokens run among others."""
        others = [self.piece(1 + n, None if n % 3 == 0 else self.slots[0], BEFORE, 1 + n % 4) for n in range(before)]
        others += [self.piece(1 + before + n, self.slots[2], BEFORE, 1 + n % 2) for n in range(behind)]
        mine = self.piece(0, slot, BEFORE, count)
        return self.runner.step([*others[:before], mine, *others[before:]])[before].clone()


@pytest.mark.parametrize("count", [1, 2, 37], ids=["decode", "two", "chunk"])
@pytest.mark.parametrize("adapted", [True, False], ids=["adapter", "base"])
def test_no_bit_of_a_sequence_depends_on_its_place(house: _House, count: int, adapted: bool) -> None:
    slot = house.slots[1] if adapted else None
    torch.set_num_threads(1)
    for number in range(41):
        house.runner.step([replace(house.piece(number, slot, 0, BEFORE), wants_logits=False)])
    alone = house.step(slot, count, 0, 0)
    assert alone.isfinite().all()
    for threads in THREADS:
        torch.set_num_threads(threads)
        differ = [place for place in PLACES if not torch.equal(house.step(slot, count, *place), alone)]
        assert not differ, f"on {threads} threads"


SAMPLINGS: Final = (
    (Sampling(temperature=0.0), 5),
    (Sampling(seed=1), 20),
    (Sampling(seed=2, temperature=0.7, top_p=0.9, min_p=0.01), 5),
    (Sampling(seed=3, top_k=40, repetition_penalty=1.3), 0),
    (Sampling(seed=4, temperature=1.5, top_k=700, top_p=0.97, presence_penalty=0.5, frequency_penalty=0.2), 3),
)


@pytest.mark.parametrize("vocabulary", [97, 3001, 32000])
def test_no_bit_of_what_is_chosen_depends_on_the_rows_place(vocabulary: int) -> None:
    """Log probabilities among it, after all that shapes a distribution."""
    logits_NV = torch.randn(48, vocabulary, generator=torch.Generator().manual_seed(0)) * 3

    def chosen(sampling: Sampling, logprobs: int, rows: Sequence[int], place: int) -> Choice:
        others = [SAMPLINGS[row % len(SAMPLINGS)] for row in rows]
        others[place] = sampling, logprobs
        choice = choose(logits_NV[list(rows)], [Sampler(one, wanted, range(1, 50)) for one, wanted in others])[place]
        assert isinstance(choice, Choice)
        return choice

    for sampling, logprobs in SAMPLINGS:
        torch.set_num_threads(1)
        alone = chosen(sampling, logprobs, [0], 0)
        for threads in THREADS:
            torch.set_num_threads(threads)
            for before, behind in PLACES:
                rows = [*range(1, 1 + before), 0, *range(1 + before, 1 + before + behind)]
                assert chosen(sampling, logprobs, rows, before) == alone, f"on {threads} threads at {before}, {behind}"


def test_the_weights_are_there_once(tmp_path: Path) -> None:
    """What lies in another order takes the place of what was read; the embedding is read by rows, and stays."""
    facts = read_base(str(write_tiny_model(tmp_path / "base", FAMILIES["qwen2"]())))
    runner = Runner.load(facts, RunnerLimits(kv_blocks=8, bank_rows=8, max_slots=1))
    if takes(torch.zeros(16, 16)):
        matrices = {name for name, weight in runner._model.named_parameters() if weight.dim() == 2}
        assert matrices == {"model.embed_tokens.weight"}
