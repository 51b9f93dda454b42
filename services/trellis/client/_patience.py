"""How long a call that can be resumed goes on without getting anywhere."""

from trellis.client._caller import Caller
from trellis.client._status import lost_connection, passing
from trellis.errors import DeadlineExceeded, TrellisError


class Patience:
    """Counts failures in a row; anything that comes sets the count back."""

    def __init__(self, caller: Caller, deadline: float | None = None) -> None:
        self._caller = caller
        self._deadline = deadline
        self._failures = 0
        self._since = 0.0

    def renew(self) -> None:
        """Something came."""
        self._failures = 0

    async def after(self, error: TrellisError, *, resumable: bool = False) -> None:
        """Wait before the call is taken up again; raise `error` when that can't help or has been tried for too long."""
        caller, now = self._caller, self._caller.clock()
        if not (resumable or lost_connection(error) or passing(error)):
            raise error
        if self._failures == 0:
            self._since = now
        self._failures += 1
        pause = max(error.retry_after or 0.0, caller.retry.backoff(self._failures, caller.chance()))
        if now + pause - self._since > caller.retry.reconnect_seconds:
            raise error
        if self._deadline is not None and now + pause >= self._deadline:
            raise DeadlineExceeded("DEADLINE_EXCEEDED", f"The time given is over. Last: {error}") from error
        await caller.transport.sleep(pause)
