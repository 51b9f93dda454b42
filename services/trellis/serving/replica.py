"""One copy of a base model, as Ray Serve calls it."""

import hashlib
import hmac
import logging
from typing import Any

from ray import serve
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from trellis import tracing
from trellis.bases import BaseFacts
from trellis.engine_wire import MEDIA_TYPE, MESSAGE, SECRET_HEADER, STATUS_PATH, STREAM_PATH, frame
from trellis.objects import ObjectStore
from trellis.serving.config import EngineConfig
from trellis.serving.follower import WantedFollower
from trellis.serving.metrics import EngineMetrics, Observer, RequestMeter
from trellis.serving.pace import Pace
from trellis.serving.responses import FramesResponse
from trellis.serving.routing import residency
from trellis.serving.served import ServedEngine
from trellis.serving.service import EngineService
from trellis.serving.spans import Both, RequestSpans
from trellis.serving.trellis_engine import TrellisEngine
from trellis.tokens import ChatTokenizer
from trellis.tracing import TRACEPARENT, TracingError
from trellis.v1.engine_pb2 import GetEngineStatusResponse
from trellis.wanted_adapters import wanted_key

_log = logging.getLogger(__name__)


class Replica:
    """An engine behind Ray Serve's HTTP proxy."""

    def __init__(self, config: EngineConfig, base: BaseFacts) -> None:
        self._config = config
        self._base = base

    def start(self) -> None:
        """Load the base, and begin to answer."""
        config = self._config
        _start_tracing()
        tokenizer = ChatTokenizer.load(self._base.path)
        if tokenizer.digest != config.tokenizer_digest:
            raise ValueError(f"The tokenizer of {config.base_model} is no longer the one that was registered.")
        self._metrics = EngineMetrics()
        self._engine = _engine(config, self._base, tokenizer, self._metrics)
        self._engine.start()
        key = wanted_key(config.base_model.removeprefix("baseModels/"))
        self._follower = WantedFollower(ObjectStore.open(config.store_url), key, self._engine.want)
        self._follower.start()
        self._service = EngineService(self._engine, tokenizer)
        self._pace = Pace(config.messages_per_second)
        _log.info("The engine of %s serves revision %s.", config.base_model, self._base.revision)

    async def answer(self, request: HttpRequest) -> Response:
        """One call; refused without the secret, for an engine trusts its caller about tenants."""
        given = hashlib.sha256(request.headers.get(SECRET_HEADER, "").encode()).hexdigest()
        if not hmac.compare_digest(given, self._config.secret_sha256):
            return Response("The engine's secret is missing or wrong.", status_code=401)
        path = request.url.path.removeprefix(request.scope.get("root_path", ""))
        if path == STATUS_PATH and request.method == "GET":
            return Response(frame(MESSAGE, self._status().SerializeToString()), media_type=MEDIA_TYPE)
        if path == STREAM_PATH and request.method == "POST":
            frames = self._service.frames(await request.body(), self._observer(request))
            return FramesResponse(frames, self._pace)
        return Response("There is no such method.", status_code=404)

    def _observer(self, request: HttpRequest) -> Observer:
        meter = RequestMeter(self._metrics)
        place = request.headers.get(TRACEPARENT, "")
        return Both(meter, RequestSpans(place, self._config.base_model)) if place else meter

    def check_health(self) -> None:
        """Raises RuntimeError when it can answer no more."""
        if not self._engine.is_alive:
            raise RuntimeError("The engine has ended.")

    def routing_stats(self) -> dict[str, Any]:
        """What AdapterRouter wants to know of it."""
        usage = self._engine.usage()
        return residency(usage.resident_digests, usage.host_digests)

    def stop(self) -> None:
        """End at once, however far the start came."""
        if hasattr(self, "_follower"):
            self._follower.stop()
        if hasattr(self, "_engine"):
            self._engine.stop()
        tracing.stop()

    def _status(self) -> GetEngineStatusResponse:
        usage = self._engine.usage()
        return GetEngineStatusResponse(
            base_model=self._config.base_model,
            base_revision=self._base.revision,
            adapter_digests=usage.resident_digests,
            running_requests=usage.running,
            waiting_requests=usage.waiting,
            host_adapter_digests=usage.host_digests,
            bank_rows=usage.bank_rows,
            bank_rows_used=usage.bank_rows_used,
            kv_blocks=usage.kv_blocks,
            kv_blocks_used=usage.kv_blocks_used,
            kv_blocks_cached=usage.kv_blocks_cached,
            kv_block_tokens=usage.kv_block_tokens,
            replica=serve.get_replica_context().replica_id.unique_id,
        )


def _start_tracing() -> None:
    """As the server has handed the settings on; calls are answered whether they can be traced or not."""
    try:
        tracing.start("trellis-engine")
    except TracingError as error:
        _log.warning("This replica is not traced. %s", error)


def _engine(config: EngineConfig, base: BaseFacts, tokenizer: ChatTokenizer, metrics: EngineMetrics) -> ServedEngine:
    if config.options.kind == "vllm":
        from trellis.serving.vllm_engine import VllmEngine  # noqa: PLC0415  an optional extra

        return VllmEngine(config, base, tokenizer, metrics)
    return TrellisEngine(config, base, tokenizer, metrics)
