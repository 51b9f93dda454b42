"""What a step answers, and what never comes from one sequence into another's."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runner_rig import courses_of, run_greedily
from tests.tiny_families import FAMILIES, VOCABULARY, write_tiny_model
from torch import Tensor
from transformers import BloomConfig, Lfm2Config, LlamaConfig, Phi3Config

from trellis.bases import BaseFacts, BaseModelError, read_base
from trellis.engine.batch import Batch, Piece
from trellis.engine.runner import Precision, Runner, RunnerLimits
from trellis.lora.host import HostAdapter
from trellis.lora.weights import LoraPair, LoraWeights

LIMITS = RunnerLimits(kv_blocks=24, bank_rows=64, max_slots=6)
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}

BLOOM: dict[str, Any] = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "seq_length": 64}
CHUNKED: dict[str, Any] = {"attention_chunk_size": 8}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> BaseFacts:
    return read_base(str(write_tiny_model(tmp_path_factory.mktemp("bases") / "llama", FAMILIES["llama"]())))


def _adapter(runner: Runner, facts: BaseFacts, seed: int, scale: float, rank: int = 8) -> int:
    """A random adapter on all linears; its slot."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {
        path: LoraPair(
            torch.randn(rank, inputs, generator=generator) * scale,
            torch.randn(outputs, rank, generator=generator) * scale,
            2.0,
        )
        for path, (outputs, inputs) in facts.linear_shapes.items()
    }
    groups = tuple(bank.group for bank in runner.bank.groups.values())
    return runner.bank.add(HostAdapter.pack(LoraWeights(str(seed), pairs), groups, runner.dtype))


def _tokens(count: int, seed: int = 0) -> list[int]:
    return torch.randint(1, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_logits_come_in_the_order_of_the_pieces(facts: BaseFacts) -> None:
    """However the pieces are sorted inside; a piece that wants none gets none."""
    runner = Runner.load(facts, LIMITS)
    slots = [_adapter(runner, facts, seed, 0.3) for seed in (1, 2)]
    pieces = [
        Piece(_tokens(count, count), 0, [index], slot, wants_logits=wants)
        for index, (count, slot, wants) in enumerate(
            [(5, slots[1], True), (3, None, True), (4, slots[0], False), (7, slots[0], True), (2, slots[1], True)]
        )
    ]
    together = runner.step(pieces)
    alone = [runner.step([piece])[0] for piece in pieces if piece.wants_logits]
    assert together.shape == (4, VOCABULARY)
    torch.testing.assert_close(together, torch.stack(alone))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nobody_may_want_logits(facts: BaseFacts, precision: Precision) -> None:
    """As when all run a first chunk of their prompts."""
    runner = Runner.load(facts, LIMITS, precision=precision)
    assert runner.step([Piece([5, 6], 0, [0], None, wants_logits=False)]).shape == (0, VOCABULARY)


def test_batch_keeps_pieces_of_a_slot_together() -> None:
    """Those for the base alone come first; `kept_N` follows the order given."""
    slots = [2, None, 1, 2]
    pieces = [Piece([index] * 2, 0, [index], slot, wants_logits=True) for index, slot in enumerate(slots)]
    batch = Batch.of(pieces, 16, torch.device("cpu"))
    assert batch.runs == ((None, 2), (1, 2), (2, 2), (2, 2))
    assert batch.token_ids_T[batch.kept_N].tolist() == [0, 1, 2, 3]
    assert not batch.decodes


def test_a_prefix_is_read_from_the_blocks_of_another(facts: BaseFacts) -> None:
    """Full blocks that hold the same tokens need not be run again."""
    runner = Runner.load(facts, LIMITS)
    prompt = _tokens(20)
    whole = runner.step([Piece(prompt, 0, [3, 4], None, wants_logits=True)])
    shared = runner.step([Piece(prompt[16:], 16, [3, 7], None, wants_logits=True)])
    torch.testing.assert_close(shared, whole)


def _beside(facts: BaseFacts, precision: Precision, scale: float) -> tuple[list[Tensor], list[Tensor]]:
    """The logits of three sequences in two steps beside one whose adapter is scaled so; and that one's own.

    At last its blocks are given to another sequence.
    """
    runner = Runner.load(facts, LIMITS, precision=precision)
    slots = [_adapter(runner, facts, 1, 0.2), _adapter(runner, facts, 2, scale), _adapter(runner, facts, 3, 0.2)]
    given = [None, slots[0], slots[1], slots[2]]
    blocks = [[0, 1], [2, 3], [4, 5], [6, 7]]
    steps = [(0, 11), (11, 17), (17, 18)]
    good, bad = [], []
    for start, stop in steps:
        pieces = [
            Piece(_tokens(18, index)[start:stop], start, blocks[index], slot, wants_logits=True)
            for index, slot in enumerate(given)
        ]
        logits = runner.step(pieces)
        good.append(logits[[0, 1, 3]])
        bad.append(logits[2])
    good.append(runner.step([Piece(_tokens(9), 0, blocks[2], None, wants_logits=True)]))
    return good, bad


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_adapter_that_blows_up_changes_no_bit_of_others(facts: BaseFacts, precision: Precision) -> None:
    """Its numbers become infinite or NaN; its neighbours and those who get its blocks after it see nothing of it."""
    calm, _ = _beside(facts, precision, 0.2)
    stormy, blown = _beside(facts, precision, 1e30)
    assert not any(logits.isfinite().all() for logits in blown)
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(calm, stormy, strict=True))


def test_two_runners_in_one_process_never_mix(tmp_path: Path, facts: BaseFacts) -> None:
    """Two bases of one architecture, stepped by two threads at once."""
    other = read_base(str(write_tiny_model(tmp_path / "other", FAMILIES["llama"](), seed=9)))
    alone = []
    runners = [Runner.load(base, LIMITS) for base in (facts, other)]
    for runner in runners:
        courses = courses_of(runner, [_tokens(9), _tokens(4, 1)], [None, None], 40)
        run_greedily(runner, courses, answers=24, chunk=4)
        alone.append([course.answer_ids for course in courses])
    sets = [courses_of(runner, [_tokens(9), _tokens(4, 1)], [None, None], 40) for runner in runners]
    threads = [
        threading.Thread(target=run_greedily, args=(runner, courses), kwargs={"answers": 24, "chunk": 4})
        for runner, courses in zip(runners, sets, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [[course.answer_ids for course in courses] for courses in sets] == alone
    assert alone[0] != alone[1]


def test_memory_is_what_was_asked_for(facts: BaseFacts) -> None:
    """Blocks and rows are worked out from bytes; a cache that holds nothing is refused."""
    runner = Runner.load(facts, RunnerLimits(kv_bytes=100_000, bank_rows=0, bank_bytes=100_000))
    assert runner.kv_bytes_per_block == 2 * 16 * (2 * 2 * 8) * 4
    assert runner.cache.nbytes <= 100_000 < runner.cache.nbytes + runner.kv_bytes_per_block
    bank_bytes = runner.bank.rows * runner.bank.bytes_per_row
    assert bank_bytes <= 100_000 < bank_bytes + runner.bank.bytes_per_row
    with pytest.raises(ValueError, match="There is room for 0 blocks"):
        Runner.load(facts, RunnerLimits(kv_bytes=100))


def test_longrope_serves_what_its_short_factors_hold_for(tmp_path: Path) -> None:
    """Beyond, transformers turns all positions of a step anew as soon as one sequence is long."""
    config = Phi3Config(
        **SIZES,
        max_position_embeddings=64,
        original_max_position_embeddings=32,
        sliding_window=None,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0, 1.5, 2.0, 2.5],
            "long_factor": [4.0, 8.0, 16.0, 32.0],
        },
    )
    runner = Runner.load(read_base(str(write_tiny_model(tmp_path / "base", config))), LIMITS)
    assert runner.context_length == 32


def test_dynamic_scaling_begins_beyond_the_context(tmp_path: Path) -> None:
    """So that it is the same for all sequences of a step."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    config = LlamaConfig(**SIZES, max_position_embeddings=64, rope_parameters=rope)
    runner = Runner.load(read_base(str(write_tiny_model(tmp_path / "base", config))), LIMITS)
    assert runner.context_length == 64


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            Lfm2Config(**SIZES, max_position_embeddings=64, layer_types=["conv", "full_attention"]),
            "layers of the kind conv",
        ),
        (
            BloomConfig(vocab_size=VOCABULARY, **BLOOM),
            "only 0 of its 2 layers",
        ),
        (LlamaConfig(**SIZES, max_position_embeddings=64, **CHUNKED), "within chunks"),
    ],
    ids=["convolutions", "alibi", "chunks"],
)
def test_refuses_what_it_would_get_wrong(tmp_path: Path, config: object, reason: str) -> None:
    """With the architecture's name and the reason."""
    folder = write_tiny_model(tmp_path / "base", config)  # type: ignore[arg-type]
    with pytest.raises(BaseModelError, match=reason):
        Runner.load(read_base(str(folder)), LIMITS)
