"""Keys: none opens more than it says, none can be made that does, and a revoked one opens nothing."""

from typing import Final

from trellis.access_table import CallerKind, Named, Outcome, methods
from trellis.client.types import Role, Scope
from trellis.isolation.requests import name_for, request_for
from trellis.isolation.stage import Stage
from trellis.isolation.verdict import Verdict
from trellis.v1 import access_pb2, api_key_pb2


def _escalation(stage: Stage, verdict: Verdict) -> None:
    create = next(method for method in methods() if method.descriptor.name == "CreateApiKey")
    member = stage.intruder.client.api_keys.create(role=Role.MEMBER, display_name="member").secret
    wanted = (
        (stage.intruder.key, stage.owner.parent, access_pb2.ROLE_MEMBER),
        (stage.intruder.key, "platform", access_pb2.ROLE_ADMIN),
        (stage.intruder.key, stage.intruder.parent, access_pb2.ROLE_ADMIN),
        (member, stage.intruder.parent, access_pb2.ROLE_MEMBER),
        (member, stage.intruder.parent, access_pb2.ROLE_TENANT_ADMIN),
        (member, "platform", access_pb2.ROLE_ADMIN),
    )
    for key, parent, role in wanted:
        request = api_key_pb2.CreateApiKeyRequest(parent=parent, api_key=api_key_pb2.ApiKey(role=role))
        answer = stage.wire.call(create, key, request)
        what = f"a key of {parent} with {access_pb2.Role.Name(role)}"
        verdict.expect(answer.status == "PERMISSION_DENIED", f"{create.path} made {what}: {answer}")


def _roles(stage: Stage, verdict: Verdict) -> None:
    member = stage.intruder.client.api_keys.create(role=Role.MEMBER, display_name="member").secret
    for method in methods():
        named = Named.OWN if method.access.tenant_field else Named.NOTHING
        if method.expected(CallerKind.MEMBER, named) is not Outcome.PERMISSION_DENIED:
            continue
        request = request_for(method, name_for(method, stage.intruder.tenant, {}))
        answer = stage.wire.call(method, member, request)
        verdict.expect(answer.status == "PERMISSION_DENIED", f"{method.path} with a member's key: {answer}")


def _scopes(stage: Stage, verdict: Verdict) -> None:
    made = stage.intruder.client.api_keys.create(role=Role.MEMBER, scopes=[Scope.GENERATE], display_name="application")
    for method in methods():
        if method.access.scope in {access_pb2.SCOPE_GENERATE, access_pb2.SCOPE_UNSPECIFIED}:
            continue
        request = request_for(method, name_for(method, stage.intruder.tenant, stage.intruder.ids))
        answer = stage.wire.call(method, made.secret, request)
        verdict.expect(
            answer.status == "PERMISSION_DENIED", f"{method.path} with a key that may only generate: {answer}"
        )


def _revoked(stage: Stage, verdict: Verdict) -> None:
    read = next(method for method in methods() if method.descriptor.name == "GetTenant")
    request = request_for(read, stage.intruder.parent)
    for _ in range(5):
        made = stage.intruder.client.api_keys.create(role=Role.MEMBER, display_name="revoked")
        opened = stage.wire.call(read, made.secret, request)
        verdict.expect(opened.is_ok, f"{read.path} with a fresh key: {opened}")
        stage.intruder.client.api_keys.revoke(made.api_key.name)
        answer = stage.wire.call(read, made.secret, request)
        verdict.expect(answer.status == "UNAUTHENTICATED", f"{read.path} with a key that was revoked: {answer}")


CHECKS: Final = (
    ("keys.escalation", "No key can make one that opens more than itself", _escalation),
    ("keys.roles", "A member's key does nothing that a tenant's admin is needed for", _roles),
    ("keys.scopes", "A key that may only call models does nothing else", _scopes),
    ("keys.revoked", "A revoked key opens nothing from the answer on", _revoked),
)
