"""Calls of every method."""

from dataclasses import dataclass

import grpc
from google.protobuf.message import Message

from tests.rpc_server import Door, refusal
from trellis.access_table import Method, methods
from trellis.isolation.requests import PATTERNS, filled, name_for, request_for, set_text, texts_of

__all__ = ["METHODS", "PATTERNS", "Answer", "answer_to", "filled", "name_for", "request_for", "set_text", "texts_of"]

METHODS = list(methods())
"""All that the server answers."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call brought."""

    status: str
    message: str = ""
    body: bytes = b""


async def answer_to(door: Door, method: Method, who: str, request: Message) -> Answer:
    """Call the method."""
    codec = {
        "request_serializer": lambda message: message.SerializeToString(),
        "response_deserializer": lambda data: data,
    }
    metadata, body = door.key(who), b""
    try:
        if method.descriptor.client_streaming:
            body = await door.channel.stream_unary(method.path, **codec)(iter([request]), metadata=metadata)
        elif method.descriptor.server_streaming:
            async for data in door.channel.unary_stream(method.path, **codec)(request, metadata=metadata):
                body += data
        else:
            body = await door.channel.unary_unary(method.path, **codec)(request, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        said = refusal(error)
        assert said.reason
        assert said.request_id
        return Answer(said.code, said.message)
    return Answer("OK", body=body)
