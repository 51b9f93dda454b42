"""BaseModelService."""

from google.protobuf.empty_pb2 import Empty

from trellis.server.app import base_models
from trellis.server.app.context import Context
from trellis.server.rpc.convert.base_model import base_model, new_base_model
from trellis.server.rpc.servicers.requests import ServicerContext, page_query, request_key
from trellis.v1 import base_model_pb2 as pb
from trellis.v1.base_model_pb2_grpc import BaseModelServiceServicer


class BaseModelServicer(BaseModelServiceServicer):
    """See proto/trellis/v1/base_model.proto."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def CreateBaseModel(self, request: pb.CreateBaseModelRequest, _: ServicerContext) -> pb.BaseModel:
        key = request_key(request, request.request_id)
        return base_model(await base_models.create_base_model(self._context, new_base_model(request), key))

    async def GetBaseModel(self, request: pb.GetBaseModelRequest, _: ServicerContext) -> pb.BaseModel:
        return base_model(await base_models.get_base_model(self._context, request.name))

    async def ListBaseModels(self, request: pb.ListBaseModelsRequest, _: ServicerContext) -> pb.ListBaseModelsResponse:
        page = await base_models.list_base_models(self._context, page_query(request))
        return pb.ListBaseModelsResponse(base_models=map(base_model, page.items), next_page_token=page.next_page_token)

    async def DeleteBaseModel(self, request: pb.DeleteBaseModelRequest, _: ServicerContext) -> Empty:
        await base_models.delete_base_model(self._context, request.name, request.etag)
        return Empty()
