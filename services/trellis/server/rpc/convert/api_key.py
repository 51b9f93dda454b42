"""API keys."""

from trellis.server.app.api_keys import NewApiKey, key_name
from trellis.server.domain.caller import ApiKey, Role
from trellis.server.rpc.convert.enums import from_wire, to_wire
from trellis.server.rpc.convert.times import moment, timestamp
from trellis.v1 import access_pb2
from trellis.v1 import api_key_pb2 as pb


def api_key(value: ApiKey) -> pb.ApiKey:
    """The key on the wire, without its secret."""
    return pb.ApiKey(
        name=key_name(value),
        display_name=value.display_name,
        role=to_wire(access_pb2.Role, "ROLE_", value.role),
        prefix=value.prefix,
        create_time=timestamp(value.create_time),
        expire_time=timestamp(value.expire_time),
        revoke_time=timestamp(value.revoke_time),
    )


def new_api_key(request: pb.CreateApiKeyRequest) -> NewApiKey:
    """The key to create."""
    key = request.api_key
    return NewApiKey(
        parent=request.parent,
        display_name=key.display_name,
        role=from_wire(access_pb2.Role, "ROLE_", Role, key.role, "api_key.role"),
        expire_time=moment(key, "expire_time", "api_key.expire_time"),
    )
