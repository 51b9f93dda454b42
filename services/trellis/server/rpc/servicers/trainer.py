"""TrainerService."""

from trellis.server.app import trainers
from trellis.server.app.context import Context
from trellis.server.rpc.calls import current_caller
from trellis.server.rpc.convert import trainer as convert
from trellis.server.rpc.servicers.requests import ServicerContext
from trellis.v1 import trainer_pb2 as pb
from trellis.v1.trainer_pb2_grpc import TrainerServiceServicer


class TrainerServicer(TrainerServiceServicer):
    """See proto/trellis/v1/trainer.proto."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def StartTrainer(self, request: pb.StartTrainerRequest, _: ServicerContext) -> pb.StartTrainerResponse:
        setup = await trainers.start_trainer(self._context, current_caller(), convert.process(request))
        return convert.setup(setup)

    async def ClaimAttempts(self, request: pb.ClaimAttemptsRequest, _: ServicerContext) -> pb.ClaimAttemptsResponse:
        claimed = await trainers.claim_attempts(self._context, current_caller(), convert.word(request))
        return convert.claimed(claimed)

    async def LeaveTrainer(self, _request: pb.LeaveTrainerRequest, _: ServicerContext) -> pb.LeaveTrainerResponse:
        return pb.LeaveTrainerResponse(leave=await trainers.leave_trainer(self._context, current_caller()))
