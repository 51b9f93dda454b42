"""What a cluster's word on a run means for the attempt; it decides nothing, and says why."""

from typing import Final

from trellis.server.domain.run_trouble import RunTrouble, TroubleCode
from trellis.server.domain.tuning_job import EndCause

_CAUSES: Final = {TroubleCode.OUT_OF_MEMORY: EndCause.OUT_OF_MEMORY}
"""All else that ends a run from outside is nobody's fault, and is tried again as it was."""


def cause_of(trouble: RunTrouble | None) -> EndCause:
    """Why an attempt ended that did not say so itself."""
    return _CAUSES.get(trouble.code, EndCause.INFRASTRUCTURE) if trouble else EndCause.INFRASTRUCTURE


def with_trouble(message: str, trouble: RunTrouble | None) -> str:
    """The sentence with the cluster's reason behind it, which alone is worth reading where it ended the run."""
    return f"{message} {trouble.message}" if trouble else message
