"""Why a job waits, what stands before it, and when it is likely to start. Of other tenants only numbers are told."""

from dataclasses import dataclass
from datetime import datetime

from trellis.server.domain.tuning_job import QueueCode, QueueReason
from trellis.server.scheduler.alternatives import Alternative, alternatives
from trellis.server.scheduler.outlook import Outlook
from trellis.server.scheduler.predict import Prediction

MOST_NAMED = 20
"""So many of the tenant's own jobs before it are named."""
_STARTS = "There is room for it: it starts within seconds."


@dataclass(frozen=True, slots=True)
class Explanation:
    """What can be said of a queued job."""

    time: datetime
    reasons: tuple[QueueReason, ...]
    """All, the first in precedence first."""
    position: int = 0
    """How many queued jobs stand before it."""
    own_before: tuple[str, ...] = ()
    """The uids of the tenant's own among them, the next to start first, at most MOST_NAMED."""
    others_before: int = 0
    """How many of them are others'."""
    prediction: Prediction | None = None
    """None where nothing can be said."""
    alternatives: tuple[Alternative, ...] = ()


def explain(outlook: Outlook, uid: str) -> Explanation:
    """Explain a job of the snapshot that the outlook is of; raises KeyError for a job that is not in its queue."""
    job, now, decisions = outlook.jobs[uid], outlook.snapshot.now, outlook.decisions
    if uid in outlook.admitted:
        return Explanation(now, (QueueReason(QueueCode.NOT_CONSIDERED, _STARTS),), prediction=Prediction(now, now, now))
    if uid in decisions.refuse:
        return Explanation(now, (QueueReason(QueueCode.NEVER_FITS, decisions.refuse[uid]),))
    before = outlook.before(uid)
    own = [other.uid for other in before if other.tenant == job.tenant]
    reasons = outlook.reasons(uid)
    never = reasons[0].code is QueueCode.NEVER_FITS
    return Explanation(
        time=now,
        reasons=reasons,
        position=len(before),
        own_before=tuple(own[:MOST_NAMED]),
        others_before=len(before) - len(own),
        prediction=None if never else outlook.predictions.get(uid),
        alternatives=alternatives(outlook, uid),
    )
