"""The engine's own thread, and the way to it and back from an event loop."""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Final

from trellis.engine import Engine, Output, Request
from trellis.errors import InternalError, Reason, TrellisError, Unavailable

_log = logging.getLogger(__name__)
_Deliver = Callable[[Output], None]
_STOP_SECONDS: Final = 10.0
_REPLACED_SECONDS: Final = 5.0
"""Until Ray Serve has looked whether the engine is alive."""


class EngineLoop:
    """Steps an engine while that does anything; only this loop's thread ever touches the engine.

    While all requests wait for adapters to be loaded, the thread sleeps until a load or a deadline ends. If it ever breaks
    off, each stream ends with ENGINE_UNAVAILABLE, those that are opened later too.
    """

    def __init__(self, engine: Engine, on_step: Callable[[Engine], None] = lambda _: None) -> None:
        self._engine = engine
        self._on_step = on_step
        self._commands: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._listeners: dict[str, _Deliver] = {}
        self._has_broken_off = False
        self._lock = threading.Lock()
        """Of the two before it: no listener is left that nobody tells of the end."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        engine.notify(lambda: self._commands.put(_wake_up))

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; requests in flight get no further piece."""
        self._commands.put(None)
        self._thread.join(_STOP_SECONDS)

    @property
    def is_alive(self) -> bool:
        """Whether the engine can still answer."""
        return self._thread.is_alive()

    def tell(self, act: Callable[[Engine], object]) -> None:
        """Let the thread do something with the engine, such as `Engine.cancel`, before its next step."""
        self._commands.put(lambda: act(self._engine))

    async def stream(self, request: Request) -> AsyncGenerator[Output, None]:
        """The pieces of the request's answer, the last one included; closing the iterator cancels the request."""
        outputs: asyncio.Queue[Output] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver(output: Output) -> None:
            with suppress(RuntimeError):  # the event loop is closed: nobody listens
                loop.call_soon_threadsafe(outputs.put_nowait, output)

        try:
            if request.response_format is not None:
                await asyncio.to_thread(self._engine.prepare, request)
        except TrellisError as error:
            yield Output(request.request_id, error=error, is_last=True)
            return
        with self._lock:
            self._listeners[request.request_id] = deliver
            if self._has_broken_off:
                deliver(_ended(request.request_id))
        self._commands.put(lambda: self._submit(request, deliver))
        try:
            while True:
                output = await outputs.get()
                yield output
                if output.is_last:
                    return
        finally:
            self._listeners.pop(request.request_id, None)
            self._commands.put(lambda: self._engine.cancel(request.request_id))

    def _run(self) -> None:
        try:
            self._step_on()
        except BaseException:
            self._break_off()
            raise

    def _step_on(self) -> None:
        while self._obey():
            try:
                outputs = self._engine.step()
            except Exception:  # noqa: BLE001  the loop's edge
                _log.exception("The engine's step failed; every request in flight is ended.")
                outputs = self._engine.fail_all("The engine failed while it answered; try again.")
            self._on_step(self._engine)
            for output in outputs:
                self._deliver(output)

    def _obey(self) -> bool:
        """Do what was asked for since the last step, or wait until there is work; False at the end."""
        while True:
            try:
                command = self._commands.get(block=not self._engine.can_step, timeout=self._engine.seconds_left)
            except queue.Empty:
                return True  # there is something to do, or a deadline has come
            if command is None:
                return False
            command()
            if not self._engine.can_step:
                self._on_step(self._engine)

    def _submit(self, request: Request, deliver: _Deliver) -> None:
        try:
            self._engine.submit(request)
        except TrellisError as error:
            deliver(Output(request.request_id, error=error, is_last=True))
        except Exception:  # noqa: BLE001  one request must not end the thread
            _log.exception("A request could not be taken on.")
            broken = InternalError(Reason.INTERNAL, "The engine failed; its logs say more.")
            deliver(Output(request.request_id, error=broken, is_last=True))

    def _break_off(self) -> None:
        with self._lock:
            self._has_broken_off = True
            for request_id, deliver in tuple(self._listeners.items()):
                deliver(_ended(request_id))

    def _deliver(self, output: Output) -> None:
        deliver = self._listeners.get(output.request_id)
        if deliver is not None:
            deliver(output)


def _ended(request_id: str) -> Output:
    message = "The engine has ended before the answer did, and is being replaced; try again shortly."
    error = Unavailable(Reason.ENGINE_UNAVAILABLE, message, retry_after=_REPLACED_SECONDS)
    return Output(request_id, error=error, is_last=True)


def _wake_up() -> None:
    """A command that does nothing but end the wait for one."""
