"""Asking a model."""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from trellis.client._caller import Caller
from trellis.client._convert import fill, from_proto
from trellis.client._method import Method
from trellis.client.types import Answer, ChatMessage, FinishReason, Generation, GenerationChunk, Usage
from trellis.errors import InvalidArgument, ResourceExhausted, TrellisError, Unavailable
from trellis.v1 import inference_pb2 as pb

_GENERATE = Method("InferenceService/Generate", pb.GenerateRequest, pb.GenerateResponse)

Messages = str | Sequence[ChatMessage | Mapping[str, Any]]
"""What the user says, or a conversation, as ChatMessages or as dicts in the format of training data."""


async def chunks(
    caller: Caller, request: pb.GenerateRequest, timeout: float | None
) -> AsyncGenerator[GenerationChunk, None]:
    """The answer, piece by piece; tried again while nothing of it has come and there is no room or no engine."""
    deadline, attempt = caller.deadline(timeout), 1
    while True:
        begun = False
        try:
            left = caller.remaining(deadline, "The model did not answer in time.")
            async with aclosing(caller.stream(_GENERATE, request, left)) as answers:
                async for answer in answers:
                    begun = True
                    yield from_proto(GenerationChunk, answer)
            return
        except (Unavailable, ResourceExhausted) as error:
            if begun or _hopeless(error):
                raise
            await caller.pause(attempt, error, deadline)
        attempt += 1


def _hopeless(error: TrellisError) -> bool:
    return isinstance(error, ResourceExhausted) and error.retry_after is None


async def joined(pieces: AsyncGenerator[GenerationChunk, None]) -> Generation:
    """Whole answers from their pieces."""
    by_index: dict[int, list[GenerationChunk]] = {0: []}
    usage, adapter_digest = Usage(0, 0), ""
    async for piece in pieces:
        by_index.setdefault(piece.index, []).append(piece)
        usage = piece.usage or usage
        adapter_digest = adapter_digest or piece.adapter_digest
    answers = tuple(_answer(found) for _, found in sorted(by_index.items()))
    return Generation(answers, usage, adapter_digest)


def _answer(pieces: Sequence[GenerationChunk]) -> Answer:
    return Answer(
        text="".join(piece.text for piece in pieces),
        token_ids=tuple(token for piece in pieces for token in piece.token_ids),
        logprobs=tuple(token for piece in pieces for token in piece.logprobs),
        finish_reason=pieces[-1].finish_reason if pieces else FinishReason.UNSPECIFIED,
    )


def request_of(
    model: str,
    messages: Messages | None,
    prompt: str | None,
    system: str | None,
    tools: Sequence[Mapping[str, Any]],
) -> pb.GenerateRequest:
    """The request's input; raises InvalidArgument unless there is one of messages and prompt."""
    if (messages is None) == (prompt is None):
        raise InvalidArgument.for_field("messages", "Give either `messages` or `prompt`.")
    if messages is None:
        if system is not None or tools:
            raise InvalidArgument.for_field("prompt", "`system` and `tools` go with `messages`, not with `prompt`.")
        return pb.GenerateRequest(model=model, prompt=prompt or "")
    turns = [ChatMessage("user", messages)] if isinstance(messages, str) else [_turn(m) for m in messages]
    if system is not None:
        turns.insert(0, ChatMessage("system", system))
    request = pb.GenerateRequest(model=model)
    for turn in turns:
        fill(request.chat.messages.add(), turn)
    for tool in tools:
        request.chat.tools.add().update(tool)
    return request


def response_format(json_schema: str | Mapping[str, Any] | None, json_object: bool) -> pb.ResponseFormat | None:
    """What shape the answer must have; raises InvalidArgument when both are given, or the schema is no JSON."""
    if json_schema is None:
        return pb.ResponseFormat(json_object=True) if json_object else None
    if json_object:
        raise InvalidArgument.for_field("json_schema", "Give either `json_schema` or `json_object`.")
    if isinstance(json_schema, str):
        return pb.ResponseFormat(json_schema=json_schema)
    try:
        return pb.ResponseFormat(json_schema=json.dumps(json_schema, ensure_ascii=False))
    except (TypeError, ValueError) as error:
        raise InvalidArgument.for_field("json_schema", f"It can't be written as JSON: {error}.") from None


def _turn(message: ChatMessage | Mapping[str, Any]) -> ChatMessage:
    if isinstance(message, ChatMessage):
        return message
    unknown = message.keys() - {"role", "content", "name", "tool_calls", "tool_call_id", "weight"}
    if unknown or "role" not in message:
        what = f"has the unknown key {min(unknown)!r}" if unknown else "has no `role`"
        raise InvalidArgument.for_field("messages", f"A message {what}.")
    return ChatMessage(
        str(message["role"]),
        str(message.get("content") or ""),
        str(message.get("name") or ""),
        tuple(message.get("tool_calls") or ()),
        str(message.get("tool_call_id") or ""),
    )
