"""The gRPC server over a real socket, with keys for each role."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from grpc_status import rpc_status

from tests.server_fakes import ADMIN, World
from trellis.server.app.api_keys import NewApiKey, create_api_key
from trellis.server.app.authentication import create_first_admin_key
from trellis.server.app.context import Context
from trellis.server.domain.caller import Role
from trellis.server.rpc.server import build_grpc_server

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Door:
    """A channel to a server, and the secrets that it knows."""

    world: World
    channel: grpc.aio.Channel
    secrets: dict[str, str]
    address: str = ""
    """`host:port`."""

    def key(self, who: str) -> Metadata:
        secret = self.secrets.get(who, "")
        return (("authorization", f"Bearer {secret}"),) if secret else ()


@asynccontextmanager
async def open_door(world: World) -> AsyncIterator[Door]:
    secrets = {"admin": await create_first_admin_key(world.context) or ""}
    for who, tenant, role in (
        ("member", "acme", Role.MEMBER),
        ("tenant-admin", "acme", Role.TENANT_ADMIN),
        ("stranger", "globex", Role.TENANT_ADMIN),
    ):
        secrets[who] = await make_key(world, tenant, role)
    server = build_grpc_server(world.context)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Door(world, channel, secrets, f"127.0.0.1:{port}")
    await stop(world.context, server)


async def stop(context: Context, server: grpc.aio.Server) -> None:
    """End it, and let it do what it does beside the calls, before the database is closed."""
    await server.stop(0)
    await context.drain()


async def make_key(world: World, tenant: str, role: Role, **changes: Any) -> str:
    new = replace(NewApiKey(f"tenants/{tenant}", "", role, None), **changes)
    _, secret = await create_api_key(world.context, ADMIN, new)
    return secret


async def make_named_key(world: World, tenant: str, role: Role) -> tuple[str, str]:
    key, secret = await create_api_key(world.context, ADMIN, NewApiKey(f"tenants/{tenant}", "", role, None))
    return key.name, secret


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as it came over the wire."""

    code: str
    message: str
    details: dict[str, Any]

    @property
    def reason(self) -> str:
        info: ErrorInfo = self.details["ErrorInfo"]
        assert info.domain == "trellis.dev"
        return str(info.reason)

    @property
    def request_id(self) -> str:
        return str(self.details["RequestInfo"].request_id)


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None, error
    found: dict[str, Any] = {}
    for detail in status.details:
        kinds = (ErrorInfo, BadRequest, RequestInfo, RetryInfo)
        kind = next((k for k in kinds if detail.Is(k.DESCRIPTOR)), None)
        if kind is not None:
            message = kind()
            detail.Unpack(message)
            found[kind.__name__] = message
    return Refusal(error.code().name, status.message, found)
