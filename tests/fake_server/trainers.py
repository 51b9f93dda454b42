"""Shared trainers, as the server lists them."""

from typing import Any

from trellis.v1 import trainer_pb2 as pb
from trellis.v1.trainer_pb2_grpc import TrainerAdminServiceServicer


class Trainers(TrainerAdminServiceServicer):
    """What a test puts there."""

    def __init__(self) -> None:
        self.trainers: list[pb.Trainer] = []

    def ListTrainers(self, request: Any, context: Any) -> Any:
        return pb.ListTrainersResponse(trainers=self.trainers)
