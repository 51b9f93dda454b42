"""Every family of models says through the runner what it says by itself, and with PEFT's adapters."""

from pathlib import Path
from typing import Final

import pytest
import torch
from peft import PeftModel
from tests.runner_rig import Course, courses_of, run_greedily
from tests.tiny_adapter import write_adapter
from tests.tiny_families import FAMILIES, VOCABULARY, write_tiny_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from trellis.bases import read_base
from trellis.engine.runner import Runner, RunnerLimits
from trellis.lora.host import HostAdapter
from trellis.lora.peft_files import read_adapter

_PROMPTS: Final = (3, 11, 1, 18, 7)
_ANSWERS: Final = 8
_BLOCK_TOKENS: Final = (4, 16)
"""Blocks that PyTorch's own attention serves, and blocks that the native kernels do."""


def _limits(block_tokens: int) -> RunnerLimits:
    return RunnerLimits(kv_blocks=40, block_tokens=block_tokens, bank_rows=64, max_slots=4)


def _prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(1, VOCABULARY, (count,), generator=generator).tolist() for count in _PROMPTS]


@torch.inference_mode()
def _check(model: nn.Module, course: Course) -> None:
    ids = torch.tensor([course.prompt_ids])
    answered = model.generate(ids, max_new_tokens=_ANSWERS, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]  # type: ignore[operator]
    assert course.answer_ids == answered.tolist()
    whole: Tensor = model(torch.tensor([course.token_ids[:-1]])).logits[0, len(course.prompt_ids) - 1 :]
    torch.testing.assert_close(torch.stack(course.logits), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("block_tokens", _BLOCK_TOKENS)
@pytest.mark.parametrize("family", FAMILIES)
def test_says_what_the_model_by_itself_says(family: str, block_tokens: int, tmp_path: Path) -> None:
    """Chunks of prompts and last tokens of several sequences, side by side."""
    folder = write_tiny_model(tmp_path / "base", FAMILIES[family]())
    runner = Runner.load(read_base(str(folder)), _limits(block_tokens))
    courses = courses_of(runner, _prompts(), [None] * len(_PROMPTS), max(_PROMPTS) + _ANSWERS)
    run_greedily(runner, courses, answers=_ANSWERS, chunk=5)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    for course in courses:
        _check(model, course)


@pytest.mark.parametrize("family", FAMILIES)
def test_says_what_peft_says(family: str, tmp_path: Path) -> None:
    """Two adapters of other ranks on all linears, and the base alone, in the same steps."""
    folder = write_tiny_model(tmp_path / "base", FAMILIES[family]())
    facts = read_base(str(folder))
    runner = Runner.load(facts, _limits(16))
    slots: list[int | None] = []
    for seed, rank in ((1, 4), (2, 13)):
        files = tmp_path / f"adapter{seed}"
        digest = write_adapter(files, facts, "t", seed=seed, rank=rank, targets=facts.linear_names, scale=0.1)
        weights = read_adapter(files, facts, digest)
        slots.append(
            runner.bank.add(
                HostAdapter.pack(weights, tuple(g.group for g in runner.bank.groups.values()), runner.dtype, False)
            )
        )
    given = [slots[0], None, slots[1], slots[0], slots[1]]
    courses = courses_of(runner, _prompts(), given, max(_PROMPTS) + _ANSWERS)
    run_greedily(runner, courses, answers=_ANSWERS, chunk=5)
    for course in courses:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        if course.slot is not None:
            model = PeftModel.from_pretrained(model, str(tmp_path / f"adapter{slots.index(course.slot) + 1}"))
        _check(model.eval(), course)
