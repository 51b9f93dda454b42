"""Decoder layers as one call say, bit for bit, what their parts say one by one."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from tests.runner_rig import Course, courses_of, run_greedily
from tests.tiny_adapter import write_adapter
from tests.tiny_families import FAMILIES, VOCABULARY, write_tiny_model
from torch import Tensor

from trellis.bases import read_base
from trellis.engine.attention import PagedAttention
from trellis.engine.kv_cache import KVCache, LayerShape
from trellis.engine.layer import FusedLayer
from trellis.engine.runner import Runner, RunnerLimits
from trellis.lora.host import HostAdapter
from trellis.lora.linear import LoraLinear
from trellis.lora.peft_files import read_adapter
from trellis.native.linear import PackedLinear

WHOLE = ("llama", "llama_bias", "llama3_rope", "qwen2", "qwen3", "mistral")
"""Families whose layers have no parts but those that the kernels have."""
PROMPTS = (3, 40, 1, 18, 7, 25) * 4
"""So many that the rows of a step are computed in pieces, and so few at the end that they are not."""
ANSWERS = 6
CHUNK = 32

Precision = Literal["fp32", "bf16"]


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def load(family: str, precision: Precision, folder: Path) -> Runner:
    base = read_base(str(write_tiny_model(folder, FAMILIES[family]())))
    return Runner.load(base, RunnerLimits(kv_blocks=100, bank_rows=64, max_slots=4), precision=precision)


def layers_of(runner: Runner) -> list[FusedLayer]:
    return [module for module in runner._model.modules() if isinstance(module, FusedLayer)]


def has_products(runner: Runner) -> bool:
    """Whether this CPU's products with packed weights are the kernels', as a layer in one call needs them."""
    linears = [module for module in runner._model.modules() if isinstance(module, LoraLinear)]
    return all(isinstance(linear.group.product, PackedLinear) for linear in linears)


def add_adapters(runner: Runner, family: str, folder: Path) -> list[int]:
    facts = read_base(str(folder))
    groups = tuple(group.group for group in runner.bank.groups.values())
    slots = []
    for seed, rank in ((1, 4), (2, 13)):
        files = folder.parent / f"adapter{seed}"
        digest = write_adapter(files, facts, "t", seed=seed, rank=rank, targets=facts.linear_names, scale=0.1)
        weights = read_adapter(files, facts, digest)
        slots.append(runner.bank.add(HostAdapter.pack(weights, groups, runner.dtype, False)))
    return slots


def answers(runner: Runner, slots: Sequence[int | None]) -> tuple[list[Tensor], list[Tensor]]:
    """All logits of mixed sequences, prompts in chunks, and what is in the cache then."""
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(1, VOCABULARY, (count,), generator=generator).tolist() for count in PROMPTS]
    for layer in runner.cache.layers.values():
        layer.keys_NHtD.zero_()
        layer.values_NHtD.zero_()
    courses: list[Course] = courses_of(runner, prompts, list(slots), max(PROMPTS) + ANSWERS)
    run_greedily(runner, courses, answers=ANSWERS, chunk=CHUNK)
    logits = [torch.stack(course.logits) for course in courses]
    kept = [tensor.clone() for each in runner.cache.layers.values() for tensor in (each.keys_NHtD, each.values_NHtD)]
    return logits, kept


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", WHOLE)
def test_a_layer_in_one_call_has_the_bits_of_its_parts(
    family: str, precision: Precision, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "base"
    runner = load(family, precision, folder)
    if not has_products(runner):
        pytest.skip("this CPU's products are other libraries'")
    assert len(layers_of(runner)) == 2
    first, second = add_adapters(runner, family, folder)
    for slots in ([None] * 24, [first, None, second, first, second, None] * 4):
        whole, kept = answers(runner, slots)
        with monkeypatch.context() as patch:
            patch.setattr(PagedAttention, "native_step", None)
            apart, kept_apart = answers(runner, slots)
        assert all(torch.equal(a, b) for a, b in zip(whole, apart, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(kept, kept_apart, strict=True))


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(WHOLE)))
def test_layers_with_other_parts_stay_as_they_are(family: str, tmp_path: Path) -> None:
    assert layers_of(load(family, "fp32", tmp_path / "base")) == []


def test_the_whole_layer_is_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = load("llama", "fp32", tmp_path / "base")
    if not has_products(runner):
        pytest.skip("this CPU's products are other libraries'")

    def fail(*_: object) -> None:
        raise AssertionError("by parts")

    monkeypatch.setattr(FusedLayer, "_by_parts", fail)
    answers(runner, [None] * 24)


def test_a_model_in_another_runner_s_hands_keeps_to_that_one_s_cache(tmp_path: Path) -> None:
    first = load("llama", "fp32", tmp_path / "base")
    said, kept = answers(first, [None] * 24)
    shapes = {
        index: LayerShape(each.keys_NHtD.shape[1], each.keys_NHtD.shape[3], each.values_NHtD.shape[3])
        for index, each in first.cache.layers.items()
    }
    cache = KVCache(shapes, first.cache.blocks, first.cache.block_tokens, first.dtype, first.device)
    second = Runner(first._model, first._lora, first.bank, cache, first.context_length)
    said_again, kept_again = answers(second, [None] * 24)
    assert all(torch.equal(a, b) for a, b in zip(said, said_again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(kept, kept_again, strict=True))
