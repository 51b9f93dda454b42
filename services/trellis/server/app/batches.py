"""Work that many calls ask for at the same time, done for all of them together."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context as Variables
from typing import Final, Generic, TypeVar, cast

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
_MOST: Final = 500
"""So many are answered together at the most."""
_AT_ONCE: Final = 4
_PATIENCE: Final = 0.2
"""Seconds after which another batch is begun beside one that hangs, at a lock or a connection that died. Longer than what a
batch takes on a server that has too much to do, for then fewer and larger ones are what helps."""


class Batches(Generic[Asked, Answer]):
    """What is asked for while one batch is worked at goes into the next.

    So each answer is from work that began after it was asked for: nothing is older than the question. A lone question
    waits for nobody. `work` gives an answer or an error for each of what it is given, in that order; what it raises itself is
    everybody's. Whoever goes away leaves the work to be done.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer | Exception]]],
        rest: float = 0.0,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """`rest` is how many seconds lie between the beginnings of two batches, after one that was for several."""
        self._work = work
        self._rest = rest
        self._sleep = sleep
        self._seconds = seconds
        self._waiting: list[tuple[Asked, asyncio.Future[Answer]]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._is_called = False
        """Whether a task has been begun that has not taken anything yet."""
        self._began = 0.0
        self._was_for_several = False
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, asked: Asked) -> Answer:
        """The answer, or the error that was given or raised."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        self._look()
        return await asyncio.shield(answer)

    async def drain(self) -> None:
        """Wait for all that was asked for."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)

    def _look(self) -> None:
        """Begin a batch, unless there is nothing to do, or somebody else will."""
        if not self._waiting or self._is_called or len(self._running) >= _AT_ONCE:
            return
        if self._running and self._seconds() - self._began < _PATIENCE:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._look_again)
            return
        self._is_called = True
        # Nothing of the call that happened to come first is to be seen in what is done for all.
        task = asyncio.create_task(self._run(), context=Variables())
        self._running.add(task)
        task.add_done_callback(self._have_ended)

    def _look_again(self) -> None:
        self._timer = None
        self._look()

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._have_rested()
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                self._is_called, self._began, self._was_for_several = False, self._seconds(), len(batch) > 1
                if batch:
                    await self._answer(batch)
        finally:
            self._is_called = False
            # Now, and not when the loop comes to it: who asks in between would take this for work that goes on, and wait.
            self._running.discard(cast(asyncio.Task[None], asyncio.current_task()))

    def _have_ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if task.cancelled():  # before it had begun, perhaps
            self._is_called = False
            self._look()

    async def _have_rested(self) -> None:
        left = self._began + self._rest - self._seconds()
        if self._was_for_several and left > 0:
            await self._sleep(left)

    async def _answer(self, batch: list[tuple[Asked, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._work([asked for asked, _ in batch])
            assert len(answers) == len(batch), "each question has an answer"
        except BaseException as error:
            # A caller that nobody has cancelled is not to end as if it had been: its own caller would hear nothing.
            why = error if isinstance(error, Exception) else RuntimeError("What was asked for was given up.")
            for _, answer in batch:
                answer.set_exception(why)
            if why is not error:
                raise
            return
        for (_, answer), given in zip(batch, answers, strict=True):
            if isinstance(given, Exception):
                answer.set_exception(given)
            else:
                answer.set_result(given)
