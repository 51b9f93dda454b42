"""The upper bound: a grpc.aio server whose one handler gives the same bytes to whoever asks, and does nothing else.

`python -m tests.bench.control_rig.empty_server PORT FILE`
"""

import asyncio
import sys
from pathlib import Path

import grpc

METHOD = "/trellis.v1.TuningJobService/GetTuningJob"


async def _serve(port: int, answer: bytes) -> None:
    async def handle(_request: bytes, _context: object) -> bytes:
        return answer

    handler = grpc.unary_unary_rpc_method_handler(handle)
    _, service, method = METHOD.split("/")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2]).read_bytes()))
