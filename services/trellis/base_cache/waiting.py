"""For trainers, engines and jobs: a base that is still being fetched is waited for, not died of."""

import logging
import time
from collections.abc import Callable
from typing import Final

from trellis.bases import BaseFacts, BaseModelNotFetchedError, read_base

_log = logging.getLogger(__name__)
PATIENCE_SECONDS: Final = 1200.0
"""Less than the time after which a job that makes no step is taken to hang."""
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 15.0


def read_base_in_time(
    source: str,
    revision: str = "",
    *,
    patience: float = PATIENCE_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> BaseFacts:
    """`read_base`, once the base is in the cache; raises what it raises, and its word when `patience` seconds are over."""
    until, pause = clock() + patience, _FIRST_PAUSE
    while True:
        try:
            return read_base(source, revision)
        except BaseModelNotFetchedError as error:
            if clock() + pause > until:
                raise
            _log.info("Waiting for the base model: %s", error)
        sleep(pause)
        pause = min(_LONGEST_PAUSE, 2 * pause)
