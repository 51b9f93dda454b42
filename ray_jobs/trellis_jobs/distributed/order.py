"""What the driver gives each worker, and the function that Ray Train calls there.

The driver and Ray Train's controller read this module too, as they hand its objects on: it imports no torch, which takes
seconds and hundreds of megabytes.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to do, and with what."""

    work: bytes
    """A StartAttemptResponse."""
    mailbox: Any
    threads: int
    code_version: str


def train_worker(config: dict[str, Any]) -> None:
    """Do a worker's part."""
    from trellis_jobs.distributed.worker import follow  # noqa: PLC0415  only a worker's process computes

    follow(config["order"])
