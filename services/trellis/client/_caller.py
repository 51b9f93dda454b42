"""Calls with retries, deadlines and pages."""

import random
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from trellis.client._method import Method, Req, Res
from trellis.client._retry import Retry
from trellis.client._status import passing
from trellis.client._transport import Transport
from trellis.errors import DeadlineExceeded, NotFound, TrellisError

T = TypeVar("T")


def _new_request_id() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Caller:
    """Makes calls over a transport. A call's timeout holds for all its attempts together."""

    transport: Transport
    timeout: float
    """Seconds for a call that is given none of its own."""
    retry: Retry = field(default_factory=Retry)
    new_request_id: Callable[[], str] = _new_request_id
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random

    async def unary(self, method: Method[Req, Res], request: Req, timeout: float | None = None) -> Res:
        """One answer; calls that may be repeated are, while the server is unavailable."""
        deadline = self.clock() + (self.timeout if timeout is None else timeout)
        attempt = 1
        while True:
            try:
                return await self.transport.unary(method, request, max(0.001, deadline - self.clock()))
            except TrellisError as error:
                if not (method.repeatable and passing(error)):
                    raise
                await self.pause(attempt, error, deadline)
            attempt += 1

    async def delete(self, method: Method[Req, Any], request: Req) -> None:
        """Delete; that it is gone is success too when an earlier attempt may have done it."""
        deadline = self.clock() + self.timeout
        attempt = 1
        while True:
            try:
                await self.transport.unary(method, request, max(0.001, deadline - self.clock()))
                return
            except NotFound:
                if attempt == 1:
                    raise
                return
            except TrellisError as error:
                if not passing(error):
                    raise
                await self.pause(attempt, error, deadline)
            attempt += 1

    async def pages(self, method: Method[Req, Res], request: Req) -> AsyncGenerator[Res, None]:
        """Each page; the next one is asked for when the one before has been used up."""
        asked: Any = request
        while True:
            page: Any = await self.unary(method, asked)
            yield page
            if not page.next_page_token:
                return
            asked.page_token = page.next_page_token

    def stream(self, method: Method[Req, Res], request: Req, timeout: float | None = None) -> AsyncGenerator[Res, None]:
        """Many answers, without retries; with no deadline unless one is given."""
        return self.transport.stream(method, request, timeout)

    async def pause(self, attempt: int, error: TrellisError, deadline: float | None = None) -> None:
        """Wait before the next attempt; raise `error` when there is to be none."""
        seconds = self.retry.pause(attempt, error.retry_after, self.chance())
        if seconds is None or (deadline is not None and self.clock() + seconds >= deadline):
            raise error
        await self.transport.sleep(seconds)

    async def poll(
        self, read: Callable[[], Awaitable[T]], done: Callable[[T], bool], timeout: float | None, message: str
    ) -> T:
        """Read until it is done; raise DeadlineExceeded with the message when it is not in time."""
        deadline, pause = self.deadline(timeout), 0.05
        while not done(found := await read()):
            self.remaining(deadline, message)
            await self.transport.sleep(pause)
            pause = min(1.0, 1.5 * pause)
        return found

    def deadline(self, timeout: float | None) -> float | None:
        """When a timeout from now is over."""
        return None if timeout is None else self.clock() + timeout

    def remaining(self, deadline: float | None, message: str) -> float | None:
        """Seconds until a deadline; raise DeadlineExceeded with the message when it is over."""
        if deadline is None:
            return None
        left = deadline - self.clock()
        if left <= 0:
            raise DeadlineExceeded("DEADLINE_EXCEEDED", message)
        return left
