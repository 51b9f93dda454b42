"""Every method by everybody, naming everything: who comes in, held against the table that follows from the annotations."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions
from google.protobuf.descriptor_pool import DescriptorPool
from tests.contract.store import samples
from tests.every_method import METHODS, PATTERNS, answer_to, name_for, request_for
from tests.rpc_server import Door, make_key
from tests.server_fakes import admit, submit, upload

from trellis.access_table import CallerKind, Method, Named, Outcome, as_markdown, methods
from trellis.server.app.authentication import secret_hash
from trellis.server.app.tokens import trainer_token
from trellis.server.domain.caller import Role, Scope
from trellis.server.rpc.access import MissingAccessError, read_access
from trellis.server.rpc.servicers import SERVICES
from trellis.v1 import access_pb2

SECRETS = {
    CallerKind.NOBODY: ("nobody", "unknown"),
    CallerKind.MEMBER: ("member",),
    CallerKind.TENANT_ADMIN: ("tenant-admin",),
    CallerKind.ADMIN: ("admin",),
    CallerKind.ATTEMPT: ("attempt",),
    CallerKind.TRAINER: ("trainer",),
}
NAMES = {
    Named.PLATFORM: ("platform", "platform/apiKeys/k1", "tenants/-"),
    Named.BASE_MODEL: ("baseModels/tiny",),
    Named.NO_NAME: ("", "tenants/../adapters/x", "//", "tenants/Acme/datasets/d1", "x" * 5000),
}
REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
UNFORESEEN = {"INTERNAL", "UNKNOWN", "UNIMPLEMENTED"}


@pytest.fixture
async def door(door: Door) -> Door:
    """With jobs of two tenants and a trainer, and the secrets of an attempt, of the trainer and of narrowed keys."""
    world = door.world
    for tenant in ("acme", "globex"):
        await upload(world.context, tenant)
    token, _ = await admit(world.context, await submit(world.context, "acme"))
    await submit(world.context, "globex")
    trainer = trainer_token(b"", "trainer-1")
    async with world.context.units() as unit:
        await unit.trainers.add(samples.trainer(token_hash=secret_hash(trainer), create_time=world.clock.now()))
        await unit.commit()
    door.secrets.update({"attempt": token, "trainer": trainer, "unknown": "trk_unknown"})
    for scope in Scope:
        door.secrets[scope.name] = await make_key(world, "", Role.ADMIN, parent="platform", scopes=frozenset({scope}))
    return door


def fits(outcome: Outcome, status: str) -> bool:
    """Whether the status is the one of the table; nobody shares anything here."""
    if outcome is Outcome.LET_IN:
        return status not in REFUSED | UNFORESEEN
    return status == ("PERMISSION_DENIED" if outcome is Outcome.IF_SHARED else outcome.name)


def names_of(method: Method, named: Named) -> tuple[str, ...]:
    if named in (Named.OWN, Named.OTHER):
        return (name_for(method, "acme" if named is Named.OWN else "globex", {}),)
    return NAMES.get(named, ("",))


async def test_every_method_answers_everybody_as_the_table_says(door: Door) -> None:
    wrong: list[str] = []

    async def check(method: Method, kind: CallerKind, named: Named, who: str, name: str) -> None:
        outcome = method.expected(kind, named)
        answer = await answer_to(door, method, who, request_for(method, name))
        if not fits(outcome, answer.status):
            wrong.append(
                f"{method.path} by {who} of {name[:80]!r}: {answer.status} ({answer.message}), not {outcome.name}"
            )

    for method in METHODS:
        async with asyncio.TaskGroup() as tasks:
            for kind, secrets in SECRETS.items():
                for named in method.names:
                    for who in secrets:
                        for name in names_of(method, named):
                            tasks.create_task(check(method, kind, named, who, name))
    assert wrong == []


async def test_a_narrowed_key_reaches_its_scope_and_no_other(door: Door) -> None:
    async def check(method: Method, scope: Scope) -> None:
        request = request_for(method, name_for(method, "acme", {}))
        answer = await answer_to(door, method, scope.name, request)
        status, message = answer.status, answer.message
        if scope == method.access.scope:
            assert status not in REFUSED, f"{method.path} with {scope.name}: {status} ({message})"
        else:
            assert status == "PERMISSION_DENIED", f"{method.path} with {scope.name}: {status} ({message})"
            wanted = access_pb2.Scope.Name(method.access.scope).removeprefix("SCOPE_")
            assert (f"scope {wanted}; the key is narrowed to {scope.name}" in message) == bool(method.access.scope)

    for method in METHODS:
        async with asyncio.TaskGroup() as tasks:
            for scope in Scope:
                tasks.create_task(check(method, scope))


async def test_another_tenants_things_look_the_same_whether_they_exist_or_not(door: Door) -> None:
    async with door.world.context.units(write=False) as unit:
        jobs = await unit.jobs.list("acme", [], 1, None)
        versions = await unit.datasets.list_versions("acme", "questions", 1, None)
    real = {"dataset": "questions", "version": versions.items[0].sha256, "tuning_job": jobs.items[0].uid}
    seen = 0
    for method in METHODS:
        names = {name_for(method, tenant, ids) for tenant in ("acme", "nonesuch") for ids in (real, {})}
        answers = {await answer_to(door, method, "stranger", request_for(method, name)) for name in names}
        if method.expected(CallerKind.TENANT_ADMIN, method.names[-1]) is Outcome.INVALID_ARGUMENT:
            assert {answer.status for answer in answers} == {"PERMISSION_DENIED"}, method.path
            assert len(answers) == 1, answers
            seen += len(names) > 2
    assert seen > 10  # methods whose names are of something that is really there


def test_the_table_has_every_method_that_is_served() -> None:
    known = {method.path for method in methods()}
    assert known >= set(read_access(service.descriptor for service in SERVICES))
    assert (Path(__file__).parents[2] / "docs" / "access.md").read_text() == as_markdown(), "run: make proto"


def test_the_table_fills_in_real_names() -> None:
    assert PATTERNS["DatasetVersion"] == "tenants/{tenant}/datasets/{dataset}/versions/{version}"
    names = {str(m.descriptor.name): name_for(m, "acme", {}) for m in METHODS if m.access.tenant_field}
    assert names["GetDatasetVersion"] == f"tenants/acme/datasets/x1/versions/{'0' * 64}"
    assert names["ListDatasetVersions"] == "tenants/acme/datasets/x1"
    assert names["WatchTuningJob"] == "tenants/acme/tuningJobs/x1"
    assert names["CreateTuningJob"] == names["ListAliases"] == "tenants/acme"


def bare_services() -> Iterator[tuple[str, bytes]]:
    yield "no option", b""
    for name, option in {
        "no role": access_pb2.Access(tenant_field="name"),
        "no scope": access_pb2.Access(role=access_pb2.ROLE_MEMBER),
        "a scope of an attempt": access_pb2.Access(role=access_pb2.ROLE_ATTEMPT, scope=access_pb2.SCOPE_READ),
    }.items():
        options = MethodOptions()
        options.Extensions[access_pb2.access].CopyFrom(option)
        yield name, options.SerializeToString()


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
