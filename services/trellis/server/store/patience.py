"""How long a database is waited for before a call fails: long enough for a busy one, never for ever."""

from dataclasses import dataclass

LOCK_SECONDS = 10
"""So long a statement waits for others' locks before it fails as transient."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds; each ends one kind of waiting, and what waited fails as UNAVAILABLE."""

    connect: int = 5
    """For a connection to be made. The driver counts whole seconds, two at the least."""
    statement: float = 30.0
    """For PostgreSQL to finish a statement, by its own clock."""
    answer: float = 40.0
    """For anything to come back for a statement, by ours: a network that swallows all never says that it does."""
    ping: float = 3.0
    """For a connection that has rested to say that it lives."""
    pool: float = 10.0
    """For one of the connections that this server may have, when others use all of them."""


USUAL = Patience()
