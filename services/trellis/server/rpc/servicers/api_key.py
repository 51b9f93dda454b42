"""ApiKeyService."""

from trellis.server.app import api_key_rotation, api_keys
from trellis.server.app.context import Context
from trellis.server.rpc.calls import current_caller
from trellis.server.rpc.convert.api_key import api_key, new_api_key, rotation
from trellis.server.rpc.servicers.requests import ServicerContext, page_query
from trellis.v1 import api_key_pb2 as pb
from trellis.v1.api_key_pb2_grpc import ApiKeyServiceServicer


class ApiKeyServicer(ApiKeyServiceServicer):
    """See proto/trellis/v1/api_key.proto."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, _: ServicerContext) -> pb.CreateApiKeyResponse:
        key, secret = await api_keys.create_api_key(self._context, current_caller(), new_api_key(request))
        return pb.CreateApiKeyResponse(api_key=api_key(key), secret=secret)

    async def GetApiKey(self, request: pb.GetApiKeyRequest, _: ServicerContext) -> pb.ApiKey:
        return api_key(await api_keys.get_api_key(self._context, request.name))

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, _: ServicerContext) -> pb.ListApiKeysResponse:
        page = await api_keys.list_api_keys(self._context, request.parent, page_query(request))
        return pb.ListApiKeysResponse(api_keys=map(api_key, page.items), next_page_token=page.next_page_token)

    async def RotateApiKey(self, request: pb.RotateApiKeyRequest, _: ServicerContext) -> pb.RotateApiKeyResponse:
        key, secret = await api_key_rotation.rotate_api_key(self._context, current_caller(), rotation(request))
        return pb.RotateApiKeyResponse(api_key=api_key(key), secret=secret)

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, _: ServicerContext) -> pb.ApiKey:
        return api_key(await api_keys.revoke_api_key(self._context, request.name))
