"""Base models: every tenant may use them, admins register them."""

from collections.abc import AsyncGenerator

from google.protobuf.empty_pb2 import Empty

from trellis.client._blocking import Blocking, blocking, iterating
from trellis.client._caller import Caller
from trellis.client._convert import from_proto
from trellis.client._method import Method
from trellis.client._names import Names, base_model_name
from trellis.client.types import BaseModel
from trellis.v1 import base_model_pb2 as pb

_CREATE = Method("BaseModelService/CreateBaseModel", pb.CreateBaseModelRequest, pb.BaseModel)
_GET = Method("BaseModelService/GetBaseModel", pb.GetBaseModelRequest, pb.BaseModel)
_LIST = Method("BaseModelService/ListBaseModels", pb.ListBaseModelsRequest, pb.ListBaseModelsResponse)
_DELETE = Method("BaseModelService/DeleteBaseModel", pb.DeleteBaseModelRequest, Empty)


class AsyncBaseModels:
    """What adapters are trained on."""

    def __init__(self, caller: Caller, names: Names) -> None:
        self._caller = caller
        self._names = names

    async def create(
        self,
        base_model_id: str,
        *,
        source: str,
        revision: str = "",
        display_name: str = "",
        default: bool = False,
        request_id: str = "",
        timeout: float = 600.0,
    ) -> BaseModel:
        """Register a model of transformers; `source` is a folder that the server sees, or a hub id.

        `timeout` is in seconds, for a hub's model may have to be fetched. Raises AlreadyExists, and InvalidArgument when
        the model's files can't be used.
        """
        request = pb.CreateBaseModelRequest(
            base_model_id=base_model_id,
            base_model=pb.BaseModel(source=source, revision=revision, display_name=display_name, is_default=default),
            request_id=request_id or self._caller.new_request_id(),
        )
        return from_proto(BaseModel, await self._caller.unary(_CREATE, request, timeout))

    async def get(self, name: str) -> BaseModel:
        """Read a base model. Raises NotFound."""
        request = pb.GetBaseModelRequest(name=base_model_name(name))
        return from_proto(BaseModel, await self._caller.unary(_GET, request))

    async def list(self, *, page_size: int = 0) -> AsyncGenerator[BaseModel, None]:
        """All base models, oldest first."""
        async for page in self._caller.pages(_LIST, pb.ListBaseModelsRequest(page_size=page_size)):
            for item in page.base_models:
                yield from_proto(BaseModel, item)

    async def delete(self, name: str, *, etag: str = "") -> None:
        """Take a base model out of the register. Raises NotFound, FailedPrecondition while it is in use, Aborted."""
        await self._caller.delete(_DELETE, pb.DeleteBaseModelRequest(name=base_model_name(name), etag=etag))


class BaseModels(Blocking[AsyncBaseModels]):
    """What adapters are trained on."""

    create = blocking(AsyncBaseModels.create)
    get = blocking(AsyncBaseModels.get)
    list = iterating(AsyncBaseModels.list)
    delete = blocking(AsyncBaseModels.delete)
