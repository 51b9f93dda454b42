"""An engine host in memory, which a test moves."""

from collections.abc import AsyncIterator, Iterable, Sequence

from trellis.errors import Reason, Unavailable
from trellis.server.app.hosts import HostState
from trellis.server.domain.base_model import BaseModel
from trellis.v1.engine_pb2 import StreamTokensRequest, StreamTokensResponse


class FakeEngineHost:
    """Engines are STARTING once they are wanted, until a test says otherwise."""

    def __init__(self, answers: Iterable[StreamTokensResponse] = ()) -> None:
        self.engines: dict[str, tuple[HostState, str]] = {}
        self.requests: list[tuple[str, StreamTokensRequest]] = []
        self.reachable = True
        self._answers = list(answers)

    async def ensure(self, bases: Sequence[BaseModel]) -> None:
        self._expect_reachable()
        wanted = {base.base_model_id for base in bases}
        starting = (HostState.STARTING, "The engine is starting.")
        self.engines = {base_id: self.engines.get(base_id, starting) for base_id in sorted(wanted)}

    async def states(self) -> dict[str, tuple[HostState, str]]:
        self._expect_reachable()
        return dict(self.engines)

    async def stream_tokens(
        self, base_model_id: str, request: StreamTokensRequest
    ) -> AsyncIterator[StreamTokensResponse]:
        self._expect_reachable()
        self.requests.append((base_model_id, request))
        for answer in self._answers:
            yield answer

    def becomes(self, base_id: str, state: HostState, message: str = "") -> None:
        """The engine is in this state from now on."""
        assert base_id in self.engines, f"nobody wants an engine for {base_id}"
        self.engines[base_id] = (state, message)

    def lose(self, base_id: str) -> None:
        """The engine is gone, as after a restart of the host."""
        del self.engines[base_id]

    def _expect_reachable(self) -> None:
        if not self.reachable:
            raise Unavailable(Reason.ENGINE_UNAVAILABLE, "The engine host can't be reached.", retry_after=1.0)
