"""What can go wrong with the cache of base models."""


class BaseCacheError(ValueError):
    """A base can't be fetched or read; `str()` says why and what to do."""


class PassingError(BaseCacheError):
    """It may work later: the source is not reached, the volume is full, or somebody else is at it."""


class DamagedError(BaseCacheError):
    """A base in the cache is not what was fetched."""
