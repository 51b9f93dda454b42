"""The pause between two looks at the database."""

import asyncio

from trellis.errors import Reason, error_for


class Pause:
    """Passes `seconds` each time it is awaited, until it is stopped: then it raises Unavailable (SERVER_STOPPING)."""

    def __init__(self, seconds: float = 0.25, stopped: asyncio.Event | None = None) -> None:
        self._seconds = seconds
        self._stopped = stopped or asyncio.Event()

    def of(self, seconds: float) -> "Pause":
        """One of another length, which is stopped with this one."""
        return Pause(seconds, self._stopped)

    def stop(self) -> None:
        """Ends all present and future pauses."""
        self._stopped.set()

    async def __call__(self) -> None:
        """One pause."""
        try:
            await asyncio.wait_for(self._stopped.wait(), self._seconds)
        except TimeoutError:
            return
        raise error_for(Reason.SERVER_STOPPING, "The server is stopping; call another one.", retry_after=1.0)
