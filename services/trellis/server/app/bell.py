"""Tells those who wait in this process what was changed by it, at once; what other servers change they find by looking."""

from collections.abc import Callable

from trellis.server.domain.tuning_job import JobState

Hear = Callable[[frozenset[str]], None]


def in_state(state: JobState) -> str:
    """What a commit touches that saves a job in this state."""
    return f"tuning_jobs in {state}"


class Bell:
    """Rung after each commit with what the commit has touched: names of tables, the uids of jobs and
    trainers, and the states in which jobs were saved.

    It spares waiting and nothing else: whoever hears nothing still looks at the database every so often.
    """

    def __init__(self) -> None:
        self._listeners: list[Hear] = []

    def listen(self, hear: Hear) -> None:
        """Call `hear`, which must not fail nor take long, from now on."""
        self._listeners.append(hear)

    def ring(self, touched: frozenset[str]) -> None:
        """Something was committed."""
        for hear in self._listeners:
            hear(touched)
