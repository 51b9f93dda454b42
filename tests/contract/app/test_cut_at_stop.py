"""A server that stops while answers are under way: what they took by then is in the ledger when it has ended."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import grpc
from tests.rpc_server import make_key, stop
from tests.server_fakes import World, used

from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import Role
from trellis.server.domain.ledger import Meter
from trellis.server.rpc.server import build_grpc_server
from trellis.v1.engine_pb2 import StreamTokensRequest, StreamTokensResponse
from trellis.v1.inference_pb2 import GenerateRequest, GenerateResponse
from trellis.v1.inference_pb2_grpc import InferenceServiceStub

CALLS = 12


class EndlessEngine:
    """Says one token, and then nothing; leaving it takes a while."""

    async def stream_tokens(self, _: str, __: StreamTokensRequest) -> AsyncIterator[StreamTokensResponse]:
        try:
            yield StreamTokensResponse(generate=GenerateResponse(token_ids=[1]), prompt_tokens=5)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)


async def test_what_cut_answers_took_is_recorded_before_the_server_ends(world: World, base: BaseModel) -> None:
    context = replace(world.context, engines=EndlessEngine())  # type: ignore[arg-type]
    key = (("authorization", f"Bearer {await make_key(world, 'acme', Role.MEMBER)}"),)
    server = build_grpc_server(context)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        inference = InferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        calls = [inference.Generate(GenerateRequest(model=base.name, prompt="Hi"), metadata=key) for _ in range(CALLS)]
        for call in calls:
            await call.read()
        await stop(context, server)
        assert await used(context, "acme") == {Meter.PROMPT_TOKENS: 5 * CALLS, Meter.COMPLETION_TOKENS: CALLS}
