"""Calls of models: resolved, refused, metered."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contract.app.test_adapters import ALIAS, folder, imported
from tests.server_fakes import ADMIN, World, collected, used

from trellis.errors import NotFound, Reason, TrellisError
from trellis.server.app import adapters, inference, tenants
from trellis.server.app.context import Context
from trellis.server.domain.adapter import Adapter, Deployment
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.ledger import Meter
from trellis.v1.engine_pb2 import StreamTokensRequest, StreamTokensResponse
from trellis.v1.inference_pb2 import (
    ChatInput,
    ChatMessage,
    GenerateRequest,
    GenerateResponse,
    ResponseFormat,
    SamplingParams,
    Usage,
)

__all__ = ["folder"]
ANSWER: tuple[GenerateResponse, ...] = (
    GenerateResponse(text="He", token_ids=[1, 2]),
    GenerateResponse(text="y", token_ids=[3], finish_reason=1, usage=Usage(prompt_tokens=7, completion_tokens=3)),
)


class TalkingEngine:
    """Always says the same, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, StreamTokensRequest]] = []
        self.closed = 0
        self.answer = ANSWER
        self.prompt_tokens = 0
        """What the first piece says of the prompt."""

    async def stream_tokens(
        self, base_model_id: str, request: StreamTokensRequest
    ) -> AsyncIterator[StreamTokensResponse]:
        self.asked.append((base_model_id, request))
        try:
            for number, piece in enumerate(self.answer):
                yield StreamTokensResponse(generate=piece, prompt_tokens=0 if number else self.prompt_tokens)
        finally:
            self.closed += 1


@pytest.fixture
def engine_host() -> TalkingEngine:
    return TalkingEngine()


@pytest.fixture
def context(world: World, engine_host: TalkingEngine) -> Context:
    return replace(world.context, engines=engine_host)  # type: ignore[arg-type]


def asking(model: str) -> GenerateRequest:
    return GenerateRequest(model=model, prompt="Hi")


def asking_for_json(schema: str) -> GenerateRequest:
    return GenerateRequest(prompt="a", response_format=ResponseFormat(json_schema=schema))


async def deployed(world: World, folder: Path) -> Adapter:
    adapter = await imported(world, folder)
    async with world.context.units() as unit:
        await unit.adapters.save(replace(adapter, deployment=Deployment.DEPLOYED))
        await unit.commit()
    await adapters.set_alias(world.context, ADMIN, ALIAS, adapter.name, "")
    return adapter


async def test_names_become_digests_and_what_it_took_is_recorded(
    world: World, base: BaseModel, folder: Path, context: Context, engine_host: TalkingEngine
) -> None:
    adapter = await deployed(world, folder)
    caller = world.member("acme")
    for model in (adapter.name, ALIAS, base.name):
        pieces = await collected(inference.generate(context, caller, asking(model), "r1"))
        assert "".join(piece.text for piece in pieces) == "Hey"  # type: ignore[attr-defined]
    sent = [request for _, request in engine_host.asked]
    assert [request.adapter_digest for request in sent] == [adapter.digest, adapter.digest, ""]
    assert [request.adapter_key for request in sent] == [adapter.key, adapter.key, ""]
    assert {(request.tenant_id, request.request_id) for request in sent} == {("acme", "r1")}
    assert await used(world.context, "acme") == {Meter.PROMPT_TOKENS: 21, Meter.COMPLETION_TOKENS: 9}
    await collected(inference.generate(context, ADMIN, asking(base.name), "r2"))
    assert (await used(world.context, "acme"))[Meter.PROMPT_TOKENS] == 21


async def test_an_alias_is_followed_from_the_next_call_on_by_every_server(
    world: World, base: BaseModel, folder: Path, context: Context, engine_host: TalkingEngine
) -> None:
    adapter = await deployed(world, folder)
    retrained = replace(adapter, digest="e" * 64, key="adapters/retrained", deployment=Deployment.DEPLOYED)
    async with world.context.units() as unit:
        await unit.adapters.add(retrained)
        await unit.commit()
    servers = (context, replace(context))
    for target in (adapter, retrained, adapter):
        await adapters.set_alias(world.context, ADMIN, ALIAS, target.name, "")
        for server in servers:
            (first, *_) = await collected(inference.generate(server, world.member("acme"), asking(ALIAS), "r"))
            assert first.adapter_digest == target.digest  # type: ignore[attr-defined]
            _, sent = engine_host.asked[-1]
            assert (sent.adapter_digest, sent.adapter_key) == (target.digest, target.key)


async def test_an_answer_that_nobody_hears_to_its_end_is_metered_too(
    world: World, base: BaseModel, context: Context, engine_host: TalkingEngine
) -> None:
    async with aclosing(inference.generate(context, world.member("acme"), asking(base.name), "r")) as answer:  # type: ignore[type-var]
        await anext(answer)
    assert engine_host.closed == 1
    assert await used(world.context, "acme") == {Meter.COMPLETION_TOKENS: 2}


@pytest.mark.parametrize("pieces", [1, 2])
async def test_a_prompt_is_metered_once_whether_its_answer_is_heard_to_the_end_or_not(
    world: World, base: BaseModel, context: Context, engine_host: TalkingEngine, pieces: int
) -> None:
    engine_host.prompt_tokens = 7
    async with aclosing(inference.generate(context, world.member("acme"), asking(base.name), "r")) as answer:  # type: ignore[type-var]
        for _ in range(pieces):
            await anext(answer)
    assert await used(world.context, "acme") == {Meter.PROMPT_TOKENS: 7, Meter.COMPLETION_TOKENS: 1 + pieces}


async def test_the_engine_hears_of_the_tenants_share_and_of_the_callers_patience(
    world: World, base: BaseModel, context: Context, engine_host: TalkingEngine
) -> None:
    await tenants.update_tenant(context, "tenants/acme", "", {"display_name": "", "serving_weight": 2.5}, ())
    for caller, seconds in ((world.member("acme"), None), (world.member("acme"), 1.5), (ADMIN, 0.0)):
        await collected(inference.generate(context, caller, asking(base.name), "r", seconds))
    sent = [(request.tenant_weight, request.deadline_seconds) for _, request in engine_host.asked]
    assert sent == [(2.5, 0.0), (2.5, 1.5), (1.0, 0.001)]


async def test_several_answers_to_one_prompt_are_metered_as_one_prompt(
    world: World, base: BaseModel, context: Context, engine_host: TalkingEngine
) -> None:
    said = Usage(prompt_tokens=7, completion_tokens=4, cached_prompt_tokens=6)
    engine_host.answer = (
        GenerateResponse(token_ids=[1]),
        GenerateResponse(token_ids=[1, 2], index=1, finish_reason=1),
        GenerateResponse(token_ids=[3], finish_reason=1, usage=said),
    )
    pieces = await collected(inference.generate(context, world.member("acme"), asking(base.name), "r"))
    assert [piece.index for piece in pieces] == [0, 1, 0]  # type: ignore[attr-defined]
    assert await used(world.context, "acme") == {Meter.PROMPT_TOKENS: 7, Meter.COMPLETION_TOKENS: 4}


async def test_only_deployed_adapters_can_be_called(
    world: World, base: BaseModel, folder: Path, context: Context
) -> None:
    adapter = await imported(world, folder)

    async def reason() -> str:
        with pytest.raises(TrellisError) as caught:
            await collected(inference.generate(context, world.member("acme"), asking(adapter.name), "r"))
        return caught.value.reason

    assert await reason() == Reason.ADAPTER_NOT_DEPLOYED
    await adapters.deploy_adapter(world.context, adapter.name)
    assert await reason() == Reason.ENGINE_UNAVAILABLE
    for model in ("tenants/acme/aliases/none", "baseModels/none", "tenants/acme/adapters/" + "0" * 24):
        with pytest.raises(NotFound):
            await collected(inference.generate(context, world.member("acme"), asking(model), "r"))


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("chat", GenerateRequest()),
        ("prompt", GenerateRequest(prompt="")),
        ("chat.messages", GenerateRequest(chat=ChatInput())),
        ("chat.messages[0].role", GenerateRequest(chat=ChatInput(messages=[ChatMessage(role="king")]))),
        ("sampling.temperature", GenerateRequest(prompt="a", sampling=SamplingParams(temperature=2.1))),
        ("sampling.temperature", GenerateRequest(prompt="a", sampling=SamplingParams(temperature=float("nan")))),
        ("sampling.top_p", GenerateRequest(prompt="a", sampling=SamplingParams(top_p=0))),
        ("sampling.top_k", GenerateRequest(prompt="a", sampling=SamplingParams(top_k=-1))),
        ("max_tokens", GenerateRequest(prompt="a", max_tokens=-1)),
        ("stop", GenerateRequest(prompt="a", stop=["x"] * 9)),
        ("stop", GenerateRequest(prompt="a", stop=[""])),
        ("logprobs", GenerateRequest(prompt="a", logprobs=21)),
        ("sampling.min_p", GenerateRequest(prompt="a", sampling=SamplingParams(min_p=1.1))),
        ("sampling.repetition_penalty", GenerateRequest(prompt="a", sampling=SamplingParams(repetition_penalty=0))),
        ("sampling.repetition_penalty", GenerateRequest(prompt="a", sampling=SamplingParams(repetition_penalty=11))),
        ("sampling.presence_penalty", GenerateRequest(prompt="a", sampling=SamplingParams(presence_penalty=-2.1))),
        ("sampling.frequency_penalty", GenerateRequest(prompt="a", sampling=SamplingParams(frequency_penalty=3))),
        ("n", GenerateRequest(prompt="a", n=9)),
        ("n", GenerateRequest(prompt="a", n=-1)),
        ("response_format.json_schema", asking_for_json("x" * 65537)),
    ],
    ids=map(str, range(20)),
)
async def test_wrong_parameters_are_named(world: World, field: str, request_: GenerateRequest) -> None:
    request_.model = "baseModels/tiny"
    with pytest.raises(TrellisError) as caught:
        await collected(inference.generate(world.context, ADMIN, request_, "r"))
    assert [violation.field for violation in caught.value.violations] == [field]
