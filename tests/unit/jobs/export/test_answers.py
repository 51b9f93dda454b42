"""A merged model answers in plain transformers what the engine answers with the base and the adapter beside it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine_calls import alone, ids_of, request
from tests.workshop import Workshop, make_workshop
from transformers import AutoModelForCausalLM, AutoTokenizer

from trellis.exports import TASK_FILE, ExportTask
from trellis_jobs.export.run import run

KEY = "tenants/acme/exports/one"
PROMPTS = ("hello", "what colour is box 7?", "a b c d")
TOKENS = 24


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("workshop"))


def merged(workshop: Workshop, adapter_key: str, folder: Path) -> Path:
    """The folder that a user would download."""
    base = str(workshop.facts.path)
    task = ExportTask("SAFETENSORS", "baseModels/tiny", base, "", "", adapter_key, "tenants/acme/adapters/a")
    workshop.store.put_bytes(f"{KEY}/{TASK_FILE}", task.to_json())
    for path in run(workshop.store, KEY, "1").files:
        workshop.store.get_file(f"{KEY}/{path}", folder / path)
    return folder


def greedy(model: Any, tokenizer: Any, prompt: str) -> list[int]:
    """As a user of transformers gets them, with what ends an answer."""
    ids_BT = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)])
    out_BT = model.generate(
        ids_BT, attention_mask=torch.ones_like(ids_BT), do_sample=False, max_new_tokens=TOKENS, pad_token_id=0
    )
    answer: list[int] = out_BT[0, ids_BT.shape[1] :].tolist()
    end = model.config.eos_token_id
    return answer[: answer.index(end) + 1] if end in answer else answer


@pytest.mark.parametrize(("seed", "rank"), [(21, 4), (22, 8)])
def test_greedy_tokens_are_those_of_the_engine_with_the_adapter(
    workshop: Workshop, tmp_path: Path, seed: int, rank: int
) -> None:
    adapter = workshop.adapter(seed, rank=rank)
    folder = merged(workshop, adapter.key, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = {}
    for prompt in PROMPTS:
        served = alone(workshop, request(workshop, "with", prompt, adapter=adapter, max_tokens=TOKENS))
        answers[prompt] = ids_of(served)
        assert greedy(model, tokenizer, prompt) == answers[prompt]
    bare = {prompt: ids_of(alone(workshop, request(workshop, "bare", prompt, max_tokens=TOKENS))) for prompt in PROMPTS}
    assert answers != bare, "the adapter changes nothing here, so nothing is shown"
