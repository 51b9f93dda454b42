"""API keys: for tenant admins and the platform's admins."""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime, timedelta

from trellis.client._blocking import Blocking, blocking, iterating
from trellis.client._caller import Caller
from trellis.client._convert import enum_number, from_proto
from trellis.client._method import Method
from trellis.client._names import Names
from trellis.client.types import ApiKey, CreatedApiKey, Role, Scope
from trellis.v1 import access_pb2, api_key_pb2 as pb

# A second create would make a second key, and its secret would be lost with the first answer.
_CREATE = Method("ApiKeyService/CreateApiKey", pb.CreateApiKeyRequest, pb.CreateApiKeyResponse, repeatable=False)
_GET = Method("ApiKeyService/GetApiKey", pb.GetApiKeyRequest, pb.ApiKey)
_LIST = Method("ApiKeyService/ListApiKeys", pb.ListApiKeysRequest, pb.ListApiKeysResponse)
# A second rotation would end the secret that everybody has.
_ROTATE = Method("ApiKeyService/RotateApiKey", pb.RotateApiKeyRequest, pb.RotateApiKeyResponse, repeatable=False)
_REVOKE = Method("ApiKeyService/RevokeApiKey", pb.RevokeApiKeyRequest, pb.ApiKey)


class AsyncApiKeys:
    """What callers are known by."""

    def __init__(self, caller: Caller, names: Names) -> None:
        self._caller = caller
        self._names = names

    async def create(
        self,
        parent: str | None = None,
        *,
        role: Role = Role.MEMBER,
        display_name: str = "",
        expire_time: datetime | None = None,
        scopes: Sequence[Scope] = (),
    ) -> CreatedApiKey:
        """Create a key of a tenant, or of the `platform`; its secret is in the answer and nowhere else.

        `parent` is a tenant, the client's own when None; `scopes` narrow the key, which may all that its role may
        without them. Raises PermissionDenied for a role or a scope that the caller has not, and ValueError for a time
        without a time zone.
        """
        _check_time(expire_time)
        key = pb.ApiKey(
            display_name=display_name,
            role=access_pb2.Role.ValueType(enum_number(role, access_pb2.Role.DESCRIPTOR)),
        )
        key.scopes.extend(
            access_pb2.Scope.ValueType(enum_number(scope, access_pb2.Scope.DESCRIPTOR)) for scope in scopes
        )
        if expire_time is not None:
            key.expire_time.FromDatetime(expire_time)
        request = pb.CreateApiKeyRequest(parent=self._names.keys_parent(parent), api_key=key)
        return from_proto(CreatedApiKey, await self._caller.unary(_CREATE, request))

    async def get(self, name: str) -> ApiKey:
        """Read a key, without its secret. Raises NotFound."""
        request = pb.GetApiKeyRequest(name=self._names.of("apiKeys", name))
        return from_proto(ApiKey, await self._caller.unary(_GET, request))

    async def list(self, parent: str | None = None, *, page_size: int = 0) -> AsyncGenerator[ApiKey, None]:
        """A tenant's keys, or the `platform`'s, oldest first, revoked ones too."""
        request = pb.ListApiKeysRequest(parent=self._names.keys_parent(parent), page_size=page_size)
        async for page in self._caller.pages(_LIST, request):
            for item in page.api_keys:
                yield from_proto(ApiKey, item)

    async def rotate(
        self, name: str, *, overlap: timedelta = timedelta(0), expire_time: datetime | None = None
    ) -> CreatedApiKey:
        """Give a key a new secret, which is in the answer and nowhere else.

        The old one opens for `overlap` more, 30 days at the most; the secret before that one opens nothing from now
        on. `expire_time` is the key's new end, unchanged when None. Raises NotFound, PermissionDenied for a key that
        opens more than the caller, FailedPrecondition for a revoked or expired one, and ValueError for a time without
        a time zone.
        """
        _check_time(expire_time)
        request = pb.RotateApiKeyRequest(name=self._names.of("apiKeys", name))
        if overlap:
            request.overlap.FromTimedelta(overlap)
        if expire_time is not None:
            request.expire_time.FromDatetime(expire_time)
        return from_proto(CreatedApiKey, await self._caller.unary(_ROTATE, request))

    async def revoke(self, name: str) -> ApiKey:
        """Revoke a key, at once and for good. Raises NotFound."""
        request = pb.RevokeApiKeyRequest(name=self._names.of("apiKeys", name))
        return from_proto(ApiKey, await self._caller.unary(_REVOKE, request))


def _check_time(time: datetime | None) -> None:
    if time is not None and time.tzinfo is None:
        raise ValueError("expire_time needs a time zone, such as datetime.UTC.")


class ApiKeys(Blocking[AsyncApiKeys]):
    """What callers are known by."""

    create = blocking(AsyncApiKeys.create)
    get = blocking(AsyncApiKeys.get)
    list = iterating(AsyncApiKeys.list)
    rotate = blocking(AsyncApiKeys.rotate)
    revoke = blocking(AsyncApiKeys.revoke)
