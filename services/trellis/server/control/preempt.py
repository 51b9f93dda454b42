"""Jobs that give way to others, and what is kept free for those others until they start."""

from collections.abc import Sequence

import structlog

from trellis.server.app.audit import record
from trellis.server.app.giving_way import give_way
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.queue_ports import Reservation
from trellis.server.control.context import ControlContext
from trellis.server.control.metrics import JOBS_PREEMPTED
from trellis.server.control.snapshot import Taken
from trellis.server.scheduler.policy import Decisions, Preemption

_log = structlog.get_logger(__name__)


async def preempt_all(context: ControlContext, unit: UnitOfWork, preemptions: Sequence[Preemption]) -> None:
    """Ask the victims to leave; one that has ended meanwhile, or leaves already, is let be."""
    for one in preemptions:
        victim = await unit.jobs.get_by_uid(one.victim, for_update=True)
        left = await give_way(context, unit, victim, one.reason) if victim else None
        if left is not None:
            await record(context, unit, victim, left, deed="PreemptTuningJob")
            JOBS_PREEMPTED.inc()
            _log.info("job_preempted", tenant=left.tenant, job=left.name, beneficiary=one.beneficiary)


async def keep_reserved(unit: UnitOfWork, taken: Taken, decisions: Decisions) -> None:
    """Keep what is to be kept from now on, and end every other reservation."""
    now = taken.snapshot.now
    await unit.reservations.delete([uid for uid in taken.reservations if uid not in decisions.reserve])
    wanted = {
        uid: Reservation(uid, needs.cpus, needs.gpus, known.create_time if known else now)
        for uid, needs in decisions.reserve.items()
        for known in [taken.reservations.get(uid)]
    }
    await unit.reservations.put([one for uid, one in wanted.items() if one != taken.reservations.get(uid)])
