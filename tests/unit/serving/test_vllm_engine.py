"""The other engine on a tiny model, against ours; where vLLM is installed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from tests.tiny_adapter import write_adapter
from tests.tiny_llama import write_tiny_llama
from transformers import AutoModelForCausalLM

from trellis.bases import BaseFacts, read_base
from trellis.engine import AdapterRef, FinishReason, Output, Request, ResponseFormat, Sampling
from trellis.engine_options import EngineOptions
from trellis.errors import Reason
from trellis.objects import ObjectStore
from trellis.serving.config import EngineConfig
from trellis.serving.metrics import EngineMetrics
from trellis.serving.served import ServedEngine
from trellis.serving.trellis_engine import TrellisEngine
from trellis.tokens import ChatTokenizer

pytest.importorskip("vllm", reason="vLLM is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(280),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore"),  # vLLM's own, and many
]
OPTIONS = EngineOptions(kind="vllm", max_running=8, max_waiting=8, bank_rows=256, max_adapters=4, kv_bytes=32 << 20)


class Shop:
    """A tiny base that vLLM can run, its adapters, and both engines."""

    def __init__(self, folder: Path) -> None:
        write_tiny_llama(folder / "base", hidden=128)
        model = AutoModelForCausalLM.from_pretrained(folder / "base")
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "layers" in name and weight.dim() == 2:
                    weight.mul_(6)
        model.save_pretrained(folder / "base")
        self.folder = folder
        self.base: BaseFacts = read_base(str(folder / "base"))
        self.tokenizer = ChatTokenizer.load(self.base.path)
        self.store = ObjectStore.open(str(folder / "objects"))
        self.config = EngineConfig("baseModels/tiny", str(folder), "r", "t", self.store.url, "s", OPTIONS)

    def adapter(self, seed: int, **options: Any) -> AdapterRef:
        folder = self.folder / f"adapter-{seed}"
        digest = write_adapter(folder, self.base, self.tokenizer.digest, seed=seed, **options)
        for path in folder.iterdir():
            self.store.put_file(f"adapters/{digest}/{path.name}", path)
        return AdapterRef(digest, f"adapters/{digest}")

    def prompt(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode_text(text))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("vllm"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vllm(shop: Shop) -> AsyncIterator[ServedEngine]:
    from trellis.serving.vllm_engine import VllmEngine  # noqa: PLC0415

    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    engine = VllmEngine(shop.config, shop.base, shop.tokenizer, EngineMetrics())
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def ours(shop: Shop) -> Any:
    engine = TrellisEngine(shop.config, shop.base, shop.tokenizer, EngineMetrics())
    engine.start()
    yield engine
    engine.stop()


async def said(engine: ServedEngine, request: Request) -> list[Output]:
    return [output async for output in engine.stream(request)]


def greedy(shop: Shop, name: str, adapter: AdapterRef | None = None, **options: Any) -> Request:
    sampling = Sampling(temperature=0.0)
    return Request(name, shop.prompt("hello"), adapter, "acme", sampling=sampling, max_tokens=16, **options)


def summary(outputs: list[Output]) -> tuple[list[int], str, FinishReason | None, int]:
    last = outputs[-1]
    assert last.is_last
    assert last.error is None, last.error
    tokens = [token for output in outputs for token in output.token_ids]
    return tokens, "".join(output.text for output in outputs), last.finish_reason, last.completion_tokens


async def test_it_answers_as_ours_does_with_and_without_adapters(
    shop: Shop, vllm: ServedEngine, ours: ServedEngine
) -> None:
    adapters = [None, shop.adapter(1), shop.adapter(2, rank=4)]
    requests = [greedy(shop, f"r{n}", adapter, logprobs=2) for n, adapter in enumerate(adapters)]
    theirs = await asyncio.gather(*(said(vllm, request) for request in requests))
    expected = await asyncio.gather(*(said(ours, request) for request in requests))
    assert [summary(outputs) for outputs in theirs] == [summary(outputs) for outputs in expected]
    assert len({tuple(summary(outputs)[0]) for outputs in theirs}) == 3, "each adapter says something else"
    for one, other in zip(theirs, expected, strict=True):
        found, wanted = (chance for outputs in (one, other) for chance in [[c for o in outputs for c in o.logprobs]])
        assert [c.token_id for c in found] == [c.token_id for c in wanted]
        assert [c.logprob for c in found] == pytest.approx([c.logprob for c in wanted], abs=1e-3)
        assert [len(c.alternatives) for c in found] == [2] * len(found)


async def test_stop_strings_and_several_answers_end_as_ours_do(
    shop: Shop, vllm: ServedEngine, ours: ServedEngine
) -> None:
    _, text, _, _ = summary(await said(ours, greedy(shop, "t")))
    stopped = greedy(shop, "s", stop=(text[4:6],))
    assert summary(await said(vllm, stopped)) == summary(await said(ours, stopped))
    many = replace(greedy(shop, "m", n=3), sampling=Sampling(temperature=1.0, seed=5))
    outputs = await said(vllm, many)
    assert {output.index for output in outputs} == {0, 1, 2}
    assert sum(output.finish_reason is not None for output in outputs) == 3
    assert outputs[-1].completion_tokens == sum(len(output.token_ids) for output in outputs)


async def test_an_answer_fits_its_schema(shop: Shop, vllm: ServedEngine) -> None:
    schema = json.dumps({"enum": ["yes", "no"]})
    request = replace(greedy(shop, "j", response_format=ResponseFormat(schema)), max_tokens=100)
    _, text, _, _ = summary(await said(vllm, request))
    assert json.loads(text) in {"yes", "no"}
    (refused,) = await said(vllm, replace(request, request_id="k", response_format=ResponseFormat("[]")))
    assert refused.error is not None
    assert refused.error.reason == Reason.INVALID_FIELD


async def test_what_it_cant_do_is_said(shop: Shop, vllm: ServedEngine) -> None:
    cases = {
        Reason.CONTEXT_EXCEEDED: replace(greedy(shop, "a"), max_tokens=1000),
        Reason.ADAPTER_INVALID: greedy(shop, "b", shop.adapter(3, rank=72)),
        Reason.RESOURCE_NOT_FOUND: greedy(shop, "c", AdapterRef("0" * 64, "adapters/none")),
        Reason.DEADLINE_EXCEEDED: greedy(shop, "d", deadline=0.0),
    }
    for reason, request in cases.items():
        outputs = await said(vllm, request)
        assert outputs[-1].error is not None, reason
        assert outputs[-1].error.reason == reason
    assert summary(await said(vllm, greedy(shop, "e")))


async def test_who_leaves_frees_its_place_and_too_many_are_refused(shop: Shop, vllm: ServedEngine) -> None:
    streams = [vllm.stream(replace(greedy(shop, f"l{n}"), max_tokens=100)) for n in range(16)]
    await asyncio.gather(*(anext(stream) for stream in streams))
    assert vllm.usage().running + vllm.usage().waiting == 16
    (refused,) = await said(vllm, greedy(shop, "x"))
    assert refused.error is not None
    assert refused.error.reason == Reason.ENGINE_BUSY
    await asyncio.gather(*(stream.aclose() for stream in streams))
    assert vllm.usage().running == 0
    assert vllm.is_alive
