"""Asking a model."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from trellis.client._caller import Caller
from trellis.client._convert import fill, from_proto
from trellis.client._method import Method
from trellis.client.types import ChatMessage, FinishReason, Generation, GenerationChunk, Usage
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
    """A whole answer from its pieces."""
    found = [piece async for piece in pieces]
    last = found[-1] if found else None
    return Generation(
        text="".join(piece.text for piece in found),
        token_ids=tuple(token for piece in found for token in piece.token_ids),
        logprobs=tuple(token for piece in found for token in piece.logprobs),
        finish_reason=last.finish_reason if last else FinishReason.UNSPECIFIED,
        usage=(last.usage if last else None) or Usage(0, 0),
        adapter_digest=next((piece.adapter_digest for piece in found if piece.adapter_digest), ""),
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
