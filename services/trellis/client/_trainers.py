"""Shared trainers, for operators."""

from collections.abc import AsyncGenerator

from trellis.client._blocking import Blocking, iterating
from trellis.client._caller import Caller
from trellis.client._convert import from_proto
from trellis.client._method import Method
from trellis.client._names import Names
from trellis.client.types import Trainer
from trellis.v1 import trainer_pb2 as pb

_LIST = Method("TrainerAdminService/ListTrainers", pb.ListTrainersRequest, pb.ListTrainersResponse)


class AsyncTrainers:
    """The processes that train jobs of many tenants."""

    def __init__(self, caller: Caller, names: Names) -> None:
        self._caller = caller
        self._names = names

    async def list(self) -> AsyncGenerator[Trainer, None]:
        """All trainers that are not over, oldest first. Raises PermissionDenied unless the key is an admin's."""
        answer = await self._caller.unary(_LIST, pb.ListTrainersRequest())
        for item in answer.trainers:
            yield from_proto(Trainer, item)


class Trainers(Blocking[AsyncTrainers]):
    """The processes that train jobs of many tenants."""

    list = iterating(AsyncTrainers.list)
