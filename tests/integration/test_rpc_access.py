"""Every method by everybody: who comes in, told from the API's own annotations."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tests.contract.store import samples
from tests.contract.store.conftest import engine, migrated_url, sqlite_template, units
from tests.rpc_server import Door, open_door, refusal
from tests.server_fakes import admit, make_world, prepare, submit, upload

from trellis.server.app.authentication import secret_hash
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.app.tokens import trainer_token
from trellis.server.rpc.access import MissingAccessError, read_access
from trellis.server.rpc.servicers import SERVICES
from trellis.v1 import access_pb2

__all__ = ["engine", "migrated_url", "sqlite_template", "units"]
METHODS = [method for service in SERVICES for method in service.descriptor.methods]
CALLERS = ("nobody", "unknown", "member", "tenant-admin", "stranger", "admin", "attempt", "trainer")
REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
IDS = {"apiKeys": "k1", "datasets": "d1", "tuningJobs": "j1", "adapters": "0" * 24, "aliases": "a1", "exports": "e1"}


@pytest.fixture
def database() -> str:
    return "sqlite"


@pytest.fixture
async def door(units: UnitOfWorkFactory, tmp_path: Path) -> AsyncIterator[Door]:
    world = make_world(units, tmp_path)
    await prepare(world.context, "acme", "globex")
    await upload(world.context, "acme")
    token, _ = await admit(world.context, await submit(world.context, "acme"))
    trainer = trainer_token(b"", "trainer-1")
    async with units() as unit:
        await unit.trainers.add(samples.trainer(token_hash=secret_hash(trainer), create_time=world.clock.now()))
        await unit.commit()
    async with open_door(world) as opened:
        opened.secrets.update({"attempt": token, "trainer": trainer, "unknown": "trk_unknown"})
        yield opened


def names_for(method: MethodDescriptor, tenant: str) -> str:
    """A name that the method may take, in the tenant."""
    if method.name == "DeleteTenant" or (
        "Tenant" in method.full_name.split(".")[-2] and "Tuning" not in method.full_name
    ):
        return f"tenants/{tenant}"
    kind = method.containing_service.name.removesuffix("Service")
    collections = {"ApiKey": "apiKeys", "Dataset": "datasets", "TuningJob": "tuningJobs", "Adapter": "adapters"}
    collections["Export"] = "exports"
    collection = "aliases" if "Alias" in method.name else collections.get(kind, "adapters")
    return f"tenants/{tenant}/{collection}/{IDS[collection]}"


def request_for(method: MethodDescriptor, tenant: str) -> Message:
    request = GetMessageClass(method.input_type)()
    access = method.GetOptions().Extensions[access_pb2.access]
    if access.tenant_field:
        *path, last = access.tenant_field.split(".")
        target: Any = request
        for part in path:
            target = getattr(target, part)
        setattr(target, last, names_for(method, tenant))
    return request


async def status_of(door: Door, method: MethodDescriptor, who: str, tenant: str) -> str:
    service = method.containing_service
    path = f"/{service.full_name}/{method.name}"
    codec = {
        "request_serializer": lambda message: message.SerializeToString(),
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    request = request_for(method, tenant)
    metadata = door.key(who)
    try:
        if method.client_streaming:
            await door.channel.stream_unary(path, **codec)(iter([request]), metadata=metadata)
        elif method.server_streaming:
            async for _ in door.channel.unary_stream(path, **codec)(request, metadata=metadata):
                pass
        else:
            await door.channel.unary_unary(path, **codec)(request, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        said = refusal(error)
        assert said.reason
        assert said.request_id
        return said.code
    return "OK"


def expected(method: MethodDescriptor, who: str) -> set[str]:
    """UNAUTHENTICATED or PERMISSION_DENIED, or neither of both, which is empty here."""
    access = method.GetOptions().Extensions[access_pb2.access]
    if who in {"nobody", "unknown"}:
        return {"UNAUTHENTICATED"}
    for role, outsider in ((access_pb2.ROLE_ATTEMPT, "attempt"), (access_pb2.ROLE_TRAINER, "trainer")):
        if (access.role == role) != (who == outsider):
            return {"PERMISSION_DENIED"}
    ranks = {"member": 1, "tenant-admin": 2, "stranger": 2, "admin": 3, "attempt": 4, "trainer": 5}
    foreign = who == "stranger" and bool(access.tenant_field)
    return {"PERMISSION_DENIED"} if ranks[who] < access.role or foreign else set()


async def test_every_method_lets_in_whom_it_says(door: Door) -> None:
    wrong = []
    for method in METHODS:
        for who in CALLERS:
            found = await status_of(door, method, who, "acme")
            wanted = expected(method, who)
            if found not in wanted if wanted else found in {*REFUSED, "INTERNAL", "UNKNOWN"}:
                wrong.append(f"{method.full_name} by {who}: {found}, not {wanted or 'let in'}")
    assert wrong == []


async def test_another_tenants_things_look_the_same_whether_they_exist_or_not(door: Door) -> None:
    for method in METHODS:
        if expected(method, "stranger") == {"PERMISSION_DENIED"} and not method.client_streaming:
            for tenant in ("acme", "nonesuch"):
                assert await status_of(door, method, "stranger", tenant) == "PERMISSION_DENIED", method.full_name


@pytest.mark.parametrize("name", ["", "tenants/../adapters/x", "tenants/-", "platform", "baseModels/tiny", "//"])
async def test_names_of_no_tenant_open_nothing_to_tenants(door: Door, name: str) -> None:
    for method in METHODS:
        access = method.GetOptions().Extensions[access_pb2.access]
        if not access.tenant_field or access.platform_names_allowed:
            continue
        request = request_for(method, "acme")
        *path, last = access.tenant_field.split(".")
        target: Any = request
        for part in path:
            target = getattr(target, part)
        setattr(target, last, name)
        code = await _raw_status(door, method, request)
        assert code in {"PERMISSION_DENIED", "INVALID_ARGUMENT"}, (method.full_name, code)


async def _raw_status(door: Door, method: MethodDescriptor, request: Message) -> str:
    path = f"/{method.containing_service.full_name}/{method.name}"
    codec = {
        "request_serializer": lambda message: message.SerializeToString(),
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    metadata = door.key("tenant-admin")
    try:
        if method.client_streaming:
            await door.channel.stream_unary(path, **codec)(iter([request]), metadata=metadata)
        elif method.server_streaming:
            async for _ in door.channel.unary_stream(path, **codec)(request, metadata=metadata):
                pass
        else:
            await door.channel.unary_unary(path, **codec)(request, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


def bare_services() -> Iterator[tuple[str, bytes]]:
    yield "no option", b""
    options = MethodOptions()
    options.Extensions[access_pb2.access].tenant_field = "name"
    yield "no role", options.SerializeToString()


@pytest.mark.parametrize("options", [data for _, data in bare_services()], ids=[name for name, _ in bare_services()])
def test_a_method_that_does_not_say_who_may_call_it_is_refused(options: bytes) -> None:
    file = FileDescriptorProto(name="bare.proto", package="bare", syntax="proto3")
    file.message_type.add(name="M")
    method = file.service.add(name="S").method.add(name="Do", input_type=".bare.M", output_type=".bare.M")
    method.options.ParseFromString(options)
    pool = DescriptorPool()
    pool.Add(file) if hasattr(pool, "Add") else pool.AddSerializedFile(file.SerializeToString())
    service = pool.FindServiceByName("bare.S")
    with pytest.raises(MissingAccessError, match=r"bare\.S\.Do"):
        read_access([service])
