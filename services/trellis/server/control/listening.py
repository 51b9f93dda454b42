"""Whether a server has been there for long enough to blame processes for their silence."""

from datetime import datetime, timedelta

_PAUSE = timedelta(seconds=15)
"""Rounds that far apart are still a server's everyday, however short the lease."""


class Listening:
    """After a pause of the server, or a time without a database, processes get a lease's time to be heard."""

    def __init__(self, lease: timedelta, now: datetime) -> None:
        self._lease = lease
        self._last_round: datetime | None = None
        self._since = now

    def has_listened(self, now: datetime) -> bool:
        """Whether it has listened for a lease without a pause; to be asked once a round."""
        if self._last_round is None or now - self._last_round > max(self._lease, _PAUSE):
            self._since = now
        self._last_round = now
        return now - self._since >= self._lease
