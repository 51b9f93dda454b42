"""API keys."""

from datetime import timedelta

from trellis.errors import InvalidArgument
from trellis.server.app.api_key_rotation import Rotation
from trellis.server.app.api_keys import NewApiKey
from trellis.server.domain.caller import ApiKey, Role, Scope
from trellis.server.rpc.convert.enums import from_wire, to_wire
from trellis.server.rpc.convert.times import moment, span, timestamp
from trellis.v1 import access_pb2, api_key_pb2 as pb


def api_key(value: ApiKey) -> pb.ApiKey:
    """The key on the wire, without its secret."""
    return pb.ApiKey(
        name=value.name,
        display_name=value.display_name,
        role=to_wire(access_pb2.Role, "ROLE_", value.role),
        prefix=value.prefix,
        create_time=timestamp(value.create_time),
        expire_time=timestamp(value.expire_time),
        revoke_time=timestamp(value.revoke_time),
        scopes=[to_wire(access_pb2.Scope, "SCOPE_", scope) for scope in sorted(value.scopes)],
        rotate_time=timestamp(value.rotate_time),
        old_secret_expire_time=timestamp(value.old_secret_expire_time),
        last_use_time=timestamp(value.last_use_time),
    )


def new_api_key(request: pb.CreateApiKeyRequest) -> NewApiKey:
    """The key to create."""
    key = request.api_key
    return NewApiKey(
        parent=request.parent,
        display_name=key.display_name,
        role=from_wire(access_pb2.Role, "ROLE_", Role, key.role, "api_key.role"),
        expire_time=moment(key, "expire_time", "api_key.expire_time"),
        scopes=frozenset(_scope(number, index) for index, number in enumerate(key.scopes)),
    )


def rotation(request: pb.RotateApiKeyRequest) -> Rotation:
    """What is asked of the rotation."""
    return Rotation(
        name=request.name,
        overlap=span(request, "overlap", "overlap") or timedelta(0),
        expire_time=moment(request, "expire_time", "expire_time"),
    )


def _scope(number: int, index: int) -> Scope:
    path = f"api_key.scopes[{index}]"
    scope = from_wire(access_pb2.Scope, "SCOPE_", Scope, number, path)
    if scope is None:  # left out, it would silently widen the key
        raise InvalidArgument.for_field(path, "It must not be SCOPE_UNSPECIFIED.")
    return scope
