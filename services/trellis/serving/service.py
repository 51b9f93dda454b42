"""An engine's calls as frames, without Ray or HTTP."""

import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from google.protobuf.message import DecodeError

from trellis.engine import Output
from trellis.engine_wire import MESSAGE, error_frame, frame
from trellis.errors import InternalError, InvalidArgument, Reason, TrellisError
from trellis.serving.convert import engine_request, prompt_ids, response
from trellis.serving.metrics import Observer
from trellis.serving.served import Streaming
from trellis.tokens import ChatTokenizer
from trellis.v1.engine_pb2 import StreamTokensRequest

_log = logging.getLogger(__name__)


class EngineService:
    """StreamTokens over one engine."""

    def __init__(
        self, engine: Streaming, tokenizer: ChatTokenizer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` must be the engine's: deadlines are measured on it."""
        self._engine = engine
        self._tokenizer = tokenizer
        self._clock = clock

    async def frames(self, body: bytes, observer: Observer) -> AsyncGenerator[bytes, None]:
        """The frames of an answer; never raises but when it is closed, which cancels the request."""
        outcome = "CANCELLED"
        try:
            async with aclosing(self._outputs(body, observer)) as pieces:
                async for output, digest in pieces:
                    observer.see(output)
                    if output.error is not None:
                        raise output.error
                    outcome = output.finish_reason or outcome
                    yield frame(MESSAGE, response(output, digest).SerializeToString())
        except TrellisError as error:
            outcome = error.reason
            yield error_frame(error)
        except Exception:  # noqa: BLE001  a call's edge
            _log.exception("A call failed.")
            outcome = Reason.INTERNAL
            yield error_frame(InternalError(Reason.INTERNAL, "The engine failed; its logs say more."))
        finally:
            observer.end(outcome)

    async def _outputs(self, body: bytes, observer: Observer) -> AsyncGenerator[tuple[Output, str], None]:
        """The pieces, each with the adapter's digest if it is the first one."""
        call = _read(body)
        observer.begin(call.tenant_id)
        prompt = prompt_ids(call.generate, self._tokenizer)
        request = engine_request(uuid.uuid4().hex, call, prompt, self._clock())
        digest = call.adapter_digest
        async with aclosing(self._engine.stream(request)) as outputs:
            async for output in outputs:
                yield output, digest
                digest = ""


def _read(body: bytes) -> StreamTokensRequest:
    try:
        return StreamTokensRequest.FromString(body)
    except DecodeError:
        raise InvalidArgument(Reason.INVALID_FIELD, "The body is no StreamTokensRequest.") from None
