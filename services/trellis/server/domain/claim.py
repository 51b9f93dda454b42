"""Holds of control loops on rows."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """A control loop's hold on a row, until it expires; what is done under it is applied with its token."""

    token: str
    expire_time: datetime
