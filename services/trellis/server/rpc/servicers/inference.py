"""InferenceService."""

from collections.abc import AsyncIterator

from trellis.server.app import inference
from trellis.server.app.context import Context
from trellis.server.rpc.calls import current, current_caller
from trellis.server.rpc.servicers.requests import ServicerContext
from trellis.v1 import inference_pb2 as pb
from trellis.v1.inference_pb2_grpc import InferenceServiceServicer


class InferenceServicer(InferenceServiceServicer):
    """See proto/trellis/v1/inference.proto."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def Generate(self, request: pb.GenerateRequest, call: ServicerContext) -> AsyncIterator[pb.GenerateResponse]:
        seconds = call.time_remaining()
        return inference.generate(self._context, current_caller(), request, current().request_id, seconds)
