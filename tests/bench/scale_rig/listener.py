"""An engine that says a token every 20 ms, and callers of it through a server: `ADDRESS KEY PORT STREAMS
MESSAGES CALLS`: each of the streams makes so many calls, one after the other."""

import asyncio
import sys

import grpc
from aiohttp import web

from trellis.engine_wire import MESSAGE, frame
from trellis.v1.engine_pb2 import StreamTokensResponse
from trellis.v1.inference_pb2 import FINISH_REASON_STOP, GenerateRequest, GenerateResponse
from trellis.v1.inference_pb2_grpc import InferenceServiceStub

_PAUSE = 0.02


async def main(address: str, key: str, port: int, streams: int, messages: int, calls: int) -> None:
    """Say when all is set up, wait for a line, call, and say how many messages and tokens came."""

    async def engine(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for number in range(messages):
            ends = {"finish_reason": FINISH_REASON_STOP} if number == messages - 1 else {}
            piece = GenerateResponse(text="word ", token_ids=[number], **ends)  # type: ignore[arg-type]
            await answer.write(frame(MESSAGE, StreamTokensResponse(generate=piece).SerializeToString()))
            if number < messages - 1:
                await asyncio.sleep(_PAUSE)
        return answer

    application = web.Application()
    application.router.add_post("/trellis-tiny/{method}", engine)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    async with grpc.aio.insecure_channel(address) as channel:
        stub, metadata = InferenceServiceStub(channel), (("authorization", f"Bearer {key}"),)

        async def call() -> tuple[int, int]:
            request = GenerateRequest(model="baseModels/tiny", prompt="a", max_tokens=messages)
            pieces = []
            for _ in range(calls):
                pieces += [len(piece.token_ids) async for piece in stub.Generate(request, metadata=metadata)]
            return len(pieces), sum(pieces)

        await channel.channel_ready()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        heard = await asyncio.gather(*(call() for _ in range(streams)))
        print(*map(sum, zip(*heard, strict=True)), flush=True)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))  # type: ignore[arg-type]
