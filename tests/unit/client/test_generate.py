"""Asking models."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from tests.client_rig import Rig, all_of, first_of, got

import trellis
from trellis.v1 import inference_pb2


async def test_a_whole_answer(rig: Rig) -> None:
    answer = await got(rig.client.generate("support", "Where is it?", system="Be brief.", logprobs=1))
    assert answer.text == "Be brief. Where is it? "
    assert answer.token_ids == (0, 1, 2, 3, 4)
    assert answer.logprobs[0] == trellis.TokenLogprob(0, "Be", -0.5, (trellis.Alternative(9, "other", -2.0),))
    assert (answer.finish_reason, answer.usage) == (trellis.FinishReason.STOP, trellis.Usage(3, 5))
    assert answer.adapter_digest == "d" * 64


async def test_pieces_as_they_are_made(rig: Rig) -> None:
    pieces = await all_of(rig.client.generate_stream("support", prompt="a b"))
    assert [piece.text for piece in pieces] == ["a ", "b ", ""]
    assert [piece.usage for piece in pieces[:2]] == [None, None]


async def test_only_what_was_said_is_sent(rig: Rig) -> None:
    await got(rig.client.generate("support", "hi"))
    await got(rig.client.generate("support", "hi", temperature=0, top_p=0.5, top_k=3, seed=7, max_tokens=9, stop=["x"]))
    bare, full = rig.server.inference.requests
    assert bare.model == "tenants/acme/aliases/support"
    assert not bare.HasField("sampling")
    sampling = inference_pb2.SamplingParams(temperature=0, top_p=0.5, top_k=3, seed=7)
    assert (full.sampling, full.max_tokens, list(full.stop)) == (sampling, 9, ["x"])
    assert full.sampling.HasField("temperature")
    assert not full.HasField("response_format")


async def test_how_tokens_are_chosen(rig: Rig) -> None:
    wanted = {"min_p": 0.1, "repetition_penalty": 1.5, "presence_penalty": -1.0, "frequency_penalty": 0.0}
    await got(rig.client.generate("support", "hi", **wanted))
    (sent,) = rig.server.inference.requests
    assert sent.sampling == inference_pb2.SamplingParams(**wanted)


async def test_several_answers(rig: Rig) -> None:
    found = await got(rig.client.generate("support", "a b", n=3))
    assert [answer.text for answer in found.answers] == ["a b "] * 3
    assert all(answer == trellis.Answer("a b ", (0, 1), (), trellis.FinishReason.STOP) for answer in found.answers)
    assert (found.text, found.token_ids, found.usage) == ("a b ", (0, 1), trellis.Usage(3, 6))
    pieces = await all_of(rig.client.generate_stream("support", "a b", n=2))
    assert [(piece.index, piece.text) for piece in pieces] == [
        (0, "a "), (1, "a "), (0, "b "), (1, "b "), (1, ""), (0, "")
    ]  # fmt: skip
    assert [piece.usage for piece in pieces[:-1]] == [None] * 5


async def test_the_shape_of_an_answer(rig: Rig) -> None:
    schema = {"type": "object", "properties": {"größe": {"type": "integer"}}}
    for wanted in ({"json_schema": schema}, {"json_schema": json.dumps(schema)}, {"json_object": True}):
        await got(rig.client.generate("support", "hi", **wanted))
    one, other, any_object = (request.response_format for request in rig.server.inference.requests)
    assert json.loads(one.json_schema) == json.loads(other.json_schema) == schema
    assert any_object == inference_pb2.ResponseFormat(json_object=True)


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        ("support", "tenants/acme/aliases/support"),
        ("0123456789abcdef01234567", "tenants/acme/adapters/0123456789abcdef01234567"),
        ("baseModels/tiny", "baseModels/tiny"),
        ("tenants/globex/aliases/a", "tenants/globex/aliases/a"),
    ],
)
async def test_short_names_of_models(rig: Rig, short: str, whole: str) -> None:
    await got(rig.client.generate(short, "hi"))
    assert rig.server.inference.requests[0].model == whole


async def test_a_conversation_with_tools(rig: Rig) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    messages: list[trellis.ChatMessage | Mapping[str, Any]] = [
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        trellis.ChatMessage("tool", "There.", tool_call_id="1"),
    ]
    tools = [{"type": "function", "function": {"name": "find"}}]
    await got(rig.client.generate("support", messages, tools=tools))
    chat = rig.server.inference.requests[0].chat
    assert [message.role for message in chat.messages] == ["user", "assistant", "tool"]
    assert chat.messages[1].tool_calls[0]["function"]["name"] == "find"
    assert chat.messages[2].tool_call_id == "1"
    assert chat.tools[0]["function"]["name"] == "find"


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"messages": "a", "prompt": "b"},
        {"prompt": "a", "system": "b"},
        {"messages": [{"content": "a"}]},
        {"messages": [{"role": "user", "text": "a"}]},
        {"messages": "a", "stop": "x"},
        {"messages": "a", "json_schema": {}, "json_object": True},
        {"messages": "a", "json_schema": {"enum": [object()]}},
    ],
)
async def test_wrong_questions_are_refused_here(rig: Rig, wrong: dict[str, Any]) -> None:
    with pytest.raises(trellis.InvalidArgument):
        await got(rig.client.generate("support", **wrong))
    assert rig.server.faults.calls == []


async def test_closing_the_iterator_cancels_the_answer(rig: Rig) -> None:
    rig.server.inference.endless = True
    pieces = await first_of(rig.client.generate_stream("support", "hi"), 3)
    assert [piece.text for piece in pieces] == ["more "] * 3
    assert await asyncio.to_thread(rig.server.inference.gone.wait, 20)


async def test_leaving_a_loop_lets_the_answer_go(rig: Rig) -> None:
    rig.server.inference.endless = True
    stream = rig.client.generate_stream("support", "hi")
    if isinstance(stream, trellis.Stream):
        for _ in stream:
            break
    else:
        async for _ in stream:
            break
    del stream
    assert await asyncio.to_thread(rig.server.inference.gone.wait, 20)


async def test_cancelling_the_task_cancels_the_answer(rig: Rig) -> None:
    if isinstance(rig.client, trellis.Client):
        return
    rig.server.inference.endless = True
    begun = asyncio.Event()

    async def ask() -> None:
        async for _ in rig.client.generate_stream("support", "hi"):
            begun.set()

    task = asyncio.create_task(ask())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(rig.server.inference.gone.wait, 20)
