"""`build`, which Ray Serve's config names: one application for one base model."""

import asyncio
import hashlib
import hmac
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import torch
from ray import serve
from ray.serve import Application
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from trellis.bases import read_base
from trellis.engine import AdapterCache, AdapterLoader, Engine, Runner
from trellis.engine_wire import MEDIA_TYPE, MESSAGE, SECRET_HEADER, STATUS_PATH, STREAM_PATH, frame
from trellis.objects import ObjectStore
from trellis.serving.config import EngineConfig
from trellis.serving.leases import AdapterLeases
from trellis.serving.loop import EngineLoop
from trellis.serving.metrics import EngineMetrics, RequestMeter
from trellis.serving.service import EngineService
from trellis.tokens import ChatTokenizer
from trellis.v1.engine_pb2 import GetEngineStatusResponse

_log = logging.getLogger(__name__)


class FramesResponse(Response):
    """A body of frames, sent as they are made; however the sending ends, the frames' source is closed."""

    media_type = MEDIA_TYPE

    def __init__(self, frames: AsyncGenerator[bytes, None]) -> None:
        super().__init__()
        self._frames = frames
        del self.headers["content-length"]

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send head and frames."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        async with aclosing(self._frames) as frames:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for data in frames:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EngineReplica:
    """One copy of a base model behind Ray Serve's HTTP proxy."""

    def __init__(self, config: EngineConfig) -> None:
        torch.set_num_threads(config.threads)
        self._config = config
        self._base = read_base(config.source, config.revision)
        tokenizer = ChatTokenizer.load(self._base.path)
        if tokenizer.digest != config.tokenizer_digest:
            raise ValueError(f"The tokenizer of {config.base_model} is no longer the one that was registered.")
        runner = Runner.load(self._base, precision=config.precision, device=config.device)
        self._metrics = EngineMetrics()
        loader = AdapterLoader(ObjectStore.open(config.store_url), self._base, tokenizer.digest, runner.device)
        metrics = self._metrics
        self._adapters = AdapterCache(config.max_adapters, loader.load, metrics.loads.inc, metrics.evictions.inc)
        self._engine = Engine(runner, tokenizer, self._base.context_length, config.limits)
        self._loop = EngineLoop(self._engine, self._gauge)
        self._loop.start()
        self._service = EngineService(self._loop, tokenizer, AdapterLeases(self._adapters))
        _log.info("The engine of %s serves revision %s.", config.base_model, self._base.revision)

    async def __call__(self, request: HttpRequest) -> Response:
        """One call; refused without the secret, for an engine trusts its caller about tenants."""
        given = hashlib.sha256(request.headers.get(SECRET_HEADER, "").encode()).hexdigest()
        if not hmac.compare_digest(given, self._config.secret_sha256):
            return Response("The engine's secret is missing or wrong.", status_code=401)
        path = request.url.path.removeprefix(request.scope.get("root_path", ""))
        if path == STATUS_PATH and request.method == "GET":
            return Response(frame(MESSAGE, self._status().SerializeToString()), media_type=MEDIA_TYPE)
        if path == STREAM_PATH and request.method == "POST":
            return FramesResponse(self._service.frames(await request.body(), RequestMeter(self._metrics)))
        return Response("There is no such method.", status_code=404)

    def check_health(self) -> None:
        """Ray Serve replaces the replica when this raises."""
        if not self._loop.is_alive:
            raise RuntimeError("The engine's thread has ended.")

    def __del__(self) -> None:
        """Ray Serve's word for the end of a replica."""
        if hasattr(self, "_loop"):
            self._loop.stop()

    def _status(self) -> GetEngineStatusResponse:
        return GetEngineStatusResponse(
            base_model=self._config.base_model,
            base_revision=self._base.revision,
            adapter_digests=self._adapters.loaded(),
            running_requests=self._engine.running,
            waiting_requests=self._engine.waiting,
        )

    def _gauge(self, engine: Engine) -> None:
        self._metrics.running.set(engine.running)
        self._metrics.waiting.set(engine.waiting)


def build(args: dict[str, Any]) -> Application:
    """The application that these args (EngineConfig's fields) describe."""
    config = EngineConfig.from_args(args)
    deployed = serve.deployment(
        name="engine",
        num_replicas=config.replicas,
        # The engine itself refuses what is too much, with a word on when to come again.
        max_ongoing_requests=config.max_running + config.max_waiting + 16,
        ray_actor_options={"num_cpus": config.cpus, "num_gpus": config.gpus},
        graceful_shutdown_timeout_s=20.0,
        health_check_period_s=5.0,
        health_check_timeout_s=60.0,
        max_constructor_retry_count=3,
    )
    return deployed(EngineReplica).bind(config)
