"""Calls of any method over a socket, and what the trail says of them."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tests.rpc_server import Door
from tests.server_fakes import World

from trellis.server.domain.audit import AuditEvent, AuditQuery
from trellis.server.rpc.servicers import SERVICES

METHODS = {method.full_name: method for service in SERVICES for method in service.descriptor.methods}


def path_of(method: str) -> str:
    service, _, name = METHODS[f"trellis.v1.{method}"].full_name.rpartition(".")
    return f"/{service}/{name}"


async def call(door: Door, method: str, request: Message | Iterable[Message], who: str, request_id: str = "") -> Any:
    """The answer, of a stream its last message."""
    descriptor = METHODS[f"trellis.v1.{method}"]
    codec: dict[str, Any] = {
        "request_serializer": lambda message: message.SerializeToString(),
        "response_deserializer": GetMessageClass(descriptor.output_type).FromString,
    }
    metadata = (*door.key(who), *((("x-request-id", request_id),) if request_id else ()))
    if descriptor.client_streaming:
        return await door.channel.stream_unary(path_of(method), **codec)(iter(request), metadata=metadata)  # type: ignore[arg-type]
    return await door.channel.unary_unary(path_of(method), **codec)(request, metadata=metadata)


async def trail(world: World, query: AuditQuery | None = None) -> list[AuditEvent]:
    """The newest events first."""
    async with world.context.units(write=False) as unit:
        page = await unit.audit.list(query or AuditQuery(everything=True), 1000, None)
    return list(page.items)


async def events_of(world: World, request_id: str) -> list[AuditEvent]:
    return [event for event in await trail(world) if event.request_id == request_id]
