"""Engines on Ray Serve, which is told what to run by `Applications`, and called through its HTTP proxy."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp

from trellis.engine_options import EngineOptions
from trellis.engine_wire import (
    ADAPTER_HEADER,
    STATUS_PATH,
    STREAM_PATH,
    FrameReader,
    WireError,
)
from trellis.errors import InternalError, Reason, TrellisError, Unavailable
from trellis.server.app.hosts import HostState
from trellis.server.clusters.engine_http import UNREACHABLE, EngineHttp
from trellis.server.clusters.pieces import gathered
from trellis.server.clusters.serve_applications import Applications, DashboardApplications, last_line
from trellis.server.domain.base_model import BaseModel
from trellis.tracing import TRACEPARENT, Kind, begin
from trellis.v1.engine_pb2 import GetEngineStatusResponse, StreamTokensRequest, StreamTokensResponse
from trellis.v1.inference_pb2 import FINISH_REASON_UNSPECIFIED

_RETRY_SECONDS: Final = 2.0
_FAILED_SECONDS: Final = 60.0
"""So long an application that could not be deployed is left alone; Serve itself does not try it again."""
_PREFIX: Final = "trellis-"
_IMPORT_PATH: Final = "trellis.serving.app:build"
_COMPARED: Final = ("name", "route_prefix", "import_path", "args", "runtime_env")
_STATES: Final[Mapping[str, HostState]] = {
    "NOT_STARTED": HostState.STARTING,
    "DEPLOYING": HostState.STARTING,
    "RUNNING": HostState.RUNNING,
    "DELETING": HostState.ABSENT,
}
_QUIET: Final[Mapping[str, str]] = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
REPLICA_SPINS: Final = 2_000
"""How often a thread looks for work before it sleeps: a step has hundreds of short parallel pieces. An engine that has its cores
alone makes with none 0.73 of what it makes with 20,000, and with this many 0.99; where others take a fifth of a core from it,
with this many 1.12 (docs/adr/0025)."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What every engine gets, whatever its base model."""

    store_url: str
    """The object store, as engines reach it."""
    secret: str
    """What every call to an engine carries."""
    http_host: str = "127.0.0.1"
    """Where Serve's HTTP proxy is reached; it listens on this address only if that is a loopback one."""
    http_port: int = 8001
    options: EngineOptions = EngineOptions()
    """How big they are and how they behave."""
    environment: tuple[tuple[str, str], ...] = ()
    """Further variables of the replicas' processes."""

    def args(self, base: BaseModel) -> dict[str, Any]:
        """The application's args: the fields of trellis.serving.config.EngineConfig."""
        return {
            "base_model": base.name,
            "source": base.source,
            "revision": base.revision,
            "tokenizer_digest": base.tokenizer_digest,
            "store_url": self.store_url,
            "secret_sha256": hashlib.sha256(self.secret.encode()).hexdigest(),
            "options": asdict(self.options),
        }

    @property
    def listen_host(self) -> str:
        """The address that Serve's HTTP proxy listens on."""
        return self.http_host if self.http_host in {"127.0.0.1", "::1", "localhost"} else "0.0.0.0"


def application_name(base_model_id: str) -> str:
    """The application of a base model; ids fit names and paths as they are."""
    return f"{_PREFIX}{base_model_id}"


class ServeCluster:
    """`EngineHost` over Ray Serve; see app.ports.EngineHost for what each method promises."""

    def __init__(
        self,
        dashboard_url: str,
        settings: EngineSettings,
        token: str | Path = "",
        seconds: Callable[[], float] = time.monotonic,
        applications: Applications | None = None,
    ) -> None:
        self._settings = settings
        self._seconds = seconds
        self._failed_since: dict[str, float] = {}
        self._ran: set[str] = set()
        self._applications = applications or DashboardApplications(dashboard_url, token)
        self._engines = EngineHttp(settings.http_host, settings.http_port, settings.secret)
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        """Closes the connections."""
        await self._applications.close()
        await self._engines.close()

    async def ensure(self, bases: Sequence[BaseModel]) -> None:
        async with self._lock:
            present = await self._applications.present()
            # What failed is taken away when its time has come; the next round finds it missing, and deploys it anew.
            given_up = self._given_up(present)
            wanted = [app for base in bases if (app := self._application(base))["name"] not in given_up]
            others = [c for name, app in present.items() if not name.startswith(_PREFIX) and (c := _config(app))]
            mine = {
                name: config for name, app in present.items() if name.startswith(_PREFIX) and (config := _config(app))
            }
            if _same(mine, wanted):
                return
            settings = self._settings
            await self._applications.declare({
                "proxy_location": "HeadOnly" if settings.listen_host != "0.0.0.0" else "EveryNode",
                "http_options": {"host": settings.listen_host, "port": settings.http_port},
                "applications": [*others, *wanted],
            })  # fmt: skip

    async def states(self) -> dict[str, tuple[HostState, str]]:
        mine = {name: app for name, app in (await self._applications.present()).items() if name.startswith(_PREFIX)}
        states = {name: _state(app, name in self._ran) for name, app in mine.items()}
        self._ran = {name for name, state in states.items() if state is HostState.RUNNING}
        return {name.removeprefix(_PREFIX): (states[name], _message(app)) for name, app in mine.items()}

    async def stream_tokens(
        self, base_model_id: str, request: StreamTokensRequest
    ) -> AsyncIterator[StreamTokensResponse]:
        path = f"/{application_name(base_model_id)}{STREAM_PATH}"
        # For the choice of a replica alone: the engine goes by the request.
        headers = {ADAPTER_HEADER: request.adapter_digest} if request.adapter_digest else {}
        span = begin("engine.call", Kind.CLIENT, values={"trellis.base_model": base_model_id})
        if span.traceparent:
            headers[TRACEPARENT] = span.traceparent
        ended, begins = set[int](), True
        try:
            content = request.SerializeToString()
            async with self._engines.answer("POST", path, content, headers) as response:
                await _check(response, base_model_id)
                reader = FrameReader()
                async for data in response.content.iter_any():
                    pieces, error = gathered(reader.push(data), begins=begins)
                    for piece in pieces:
                        begins = False
                        if piece.generate.finish_reason != FINISH_REASON_UNSPECIFIED:
                            ended.add(piece.generate.index)
                        yield piece
                    if error is not None:
                        raise error
        except (*UNREACHABLE, WireError) as error:
            span.fail(type(error).__name__)
            raise _engine_unavailable(base_model_id, f"it can't be reached ({type(error).__name__})") from error
        except TrellisError as error:
            span.fail(error.reason)
            raise
        finally:
            span.end()
        if len(ended) < max(1, request.generate.n):
            raise _engine_unavailable(base_model_id, "it ended in the middle of an answer")

    async def engine_status(self, base_model_id: str) -> GetEngineStatusResponse:
        """What the engine (one replica of it) holds and does. Raises Unavailable."""
        try:
            async with self._engines.answer("GET", f"/{application_name(base_model_id)}{STATUS_PATH}") as response:
                await _check(response, base_model_id)
                ((_, content),) = FrameReader().push(await response.read())
        except (*UNREACHABLE, WireError) as error:
            raise _engine_unavailable(base_model_id, f"it can't be reached ({type(error).__name__})") from error
        return GetEngineStatusResponse.FromString(content)

    def _given_up(self, present: Mapping[str, Mapping[str, Any]]) -> set[str]:
        # Where settings that don't work were to replace ones that do, the old replicas go on.
        failed = {n for n, app in present.items() if app.get("status") == "DEPLOY_FAILED" and not _has_replica(app)}
        now = self._seconds()
        self._failed_since = {name: self._failed_since.get(name, now) for name in failed}
        return {name for name, since in self._failed_since.items() if now - since >= _FAILED_SECONDS}

    def _application(self, base: BaseModel) -> dict[str, Any]:
        name = application_name(base.base_model_id)
        threads = self._settings.options.threads
        environment = {
            **_QUIET,
            "OMP_NUM_THREADS": str(threads),
            "GOMP_SPINCOUNT": str(REPLICA_SPINS if threads > 1 else 0),
            **dict(self._settings.environment),
        }
        return {
            "name": name,
            "route_prefix": f"/{name}",
            "import_path": _IMPORT_PATH,
            "args": self._settings.args(base),
            "runtime_env": {"env_vars": environment},
        }


def _config(application: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = application.get("deployed_app_config") or {}
    return config


def _same(mine: Mapping[str, Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> bool:
    found = [{key: config.get(key) for key in _COMPARED} for _, config in sorted(mine.items())]
    return found == sorted(wanted, key=lambda config: str(config["name"]))


def _state(application: Mapping[str, Any], ran: bool) -> HostState:
    """An engine of which one replica runs can be called, whatever becomes of the others.

    While Serve builds an application anew it does not say what runs of it; what ran still does.
    """
    state = _STATES.get(str(application.get("status")), HostState.FAILED)
    is_built_anew = ran and state is HostState.STARTING and not application.get("deployments")
    return (
        HostState.RUNNING if state is not HostState.ABSENT and (is_built_anew or _has_replica(application)) else state
    )


def _has_replica(application: Mapping[str, Any]) -> bool:
    deployments = (application.get("deployments") or {}).values()
    return any(r.get("state") == "RUNNING" for deployment in deployments for r in deployment.get("replicas") or ())


def _message(application: Mapping[str, Any]) -> str:
    """Serve's word on a deployment that has trouble, else on the application; of a traceback the last line."""
    deployments = (application.get("deployments") or {}).values()
    texts = [*(deployment.get("message") for deployment in deployments), application.get("message")]
    return next((last_line(text) for text in texts if text), "")


async def _check(response: aiohttp.ClientResponse, base_model_id: str) -> None:
    """An engine answers 200 whatever it says; all else is Serve's word that the engine is not there."""
    if response.status == HTTPStatus.OK:
        return
    text = last_line((await response.read()).decode(errors="replace"))
    if response.status == HTTPStatus.UNAUTHORIZED:
        raise InternalError(Reason.INTERNAL, f"The engine of {base_model_id} refused this server's secret.")
    raise _engine_unavailable(base_model_id, f"Ray Serve answered {response.status}: {text[:200]}")


def _engine_unavailable(base_model_id: str, why: str) -> Unavailable:
    return _unavailable(f"The engine of {base_model_id} does not run at present: {why}. Try again shortly.")


def _unavailable(message: str) -> Unavailable:
    return Unavailable(Reason.ENGINE_UNAVAILABLE, message, retry_after=_RETRY_SECONDS)
