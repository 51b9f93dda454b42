"""What keeps a run from starting on a cluster, or ended it from outside: the cluster's reasons in our words."""

from dataclasses import dataclass
from enum import StrEnum


class TroubleCode(StrEnum):
    """What is wrong; a hint, never the truth about the job."""

    UNSCHEDULABLE = "UNSCHEDULABLE"
    """No node has room for it, or none of the wanted kind is there (yet)."""
    QUOTA = "QUOTA"
    """The cluster's own quota, such as Kueue's or a ResourceQuota, holds it back."""
    IMAGE_PULL = "IMAGE_PULL"
    """Its image can't be fetched."""
    CONFIGURATION = "CONFIGURATION"
    """A secret, a volume or another object that it needs is missing or wrong."""
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    """The kernel ended it for the memory that it took."""
    EVICTED = "EVICTED"
    """The cluster ended it to relieve a node, or for something of a higher priority."""
    RECLAIMED = "RECLAIMED"
    """Its node was taken back: a spot machine, or one that was drained."""
    NODE_LOST = "NODE_LOST"
    """Its node stopped answering."""


@dataclass(frozen=True, slots=True)
class RunTrouble:
    """One reason, with a sentence that may be shown to the tenant: it names no other tenant and quotes no output."""

    code: TroubleCode
    message: str
