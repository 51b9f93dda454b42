"""TrainerAdminService."""

from trellis.server.app import trainers
from trellis.server.app.context import Context
from trellis.server.rpc.convert.trainer import trainer
from trellis.server.rpc.servicers.requests import ServicerContext
from trellis.v1 import trainer_pb2 as pb
from trellis.v1.trainer_pb2_grpc import TrainerAdminServiceServicer


class TrainerAdminServicer(TrainerAdminServiceServicer):
    """See proto/trellis/v1/trainer.proto."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def ListTrainers(self, _request: pb.ListTrainersRequest, _: ServicerContext) -> pb.ListTrainersResponse:
        found = await trainers.list_trainers(self._context)
        return pb.ListTrainersResponse(trainers=[trainer(one, jobs) for one, jobs in found])
