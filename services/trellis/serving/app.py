"""`build`, which Ray Serve's config names: one application for one base model.

Serve builds in a process of its own, and reads the class of replicas where it makes none: what computes is imported where a
replica is made.
"""

from typing import Any, Final

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from trellis.serving.config import EngineConfig
from trellis.serving.routing import AdapterRouter

_STATS_SECONDS: Final = 1.0


class EngineReplica:
    """A replica in Ray Serve's words; they are Serve's alone, so nothing else is here."""

    def __init__(self, config: EngineConfig) -> None:
        from trellis.base_cache.waiting import read_base_in_time  # noqa: PLC0415  a build need not

        # Before the engine is imported, which takes seconds: Serve tries a base that is not there four times.
        base = read_base_in_time(config.source, config.revision)
        from trellis.serving.replica import Replica  # noqa: PLC0415  as above

        self._replica = Replica(config, base)
        self._replica.start()

    async def __call__(self, request: HttpRequest) -> Response:
        """One call."""
        return await self._replica.answer(request)

    def check_health(self) -> None:
        """Ray Serve replaces the replica when this raises."""
        self._replica.check_health()

    def record_routing_stats(self) -> dict[str, Any]:
        """What Serve tells its proxies of this replica, for AdapterRouter."""
        return self._replica.routing_stats()

    def __del__(self) -> None:
        """Ray Serve's word for the end of a replica, after its calls are answered."""
        if hasattr(self, "_replica"):
            self._replica.stop()


def build(args: dict[str, Any]) -> Application:
    """The application that these args (EngineConfig's fields) describe."""
    config = EngineConfig.from_args(args)
    make: Any = RequestRouterConfig  # its own annotations are wrong
    router = make(
        request_router_class=AdapterRouter,
        request_router_kwargs={"slack": config.slack},
        request_routing_stats_period_s=_STATS_SECONDS,
    )
    deployed = serve.deployment(name="engine", request_router_config=router, **config.deployment)
    return deployed(EngineReplica).bind(config)
