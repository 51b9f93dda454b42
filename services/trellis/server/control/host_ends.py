"""What the cluster says of the hosts of shared trainers: at once where it knows, and later to those whose attempts are over."""

from datetime import timedelta
from typing import Final

from trellis.errors import Unavailable
from trellis.server.app.attempts import COMPLETED
from trellis.server.app.trainers import LEFT
from trellis.server.control.context import ControlContext
from trellis.server.control.each import for_each
from trellis.server.control.late_word import hear_late_word
from trellis.server.domain.run_trouble import RunTrouble
from trellis.server.domain.trainer import Trainer
from trellis.server.domain.tuning_job import Attempt

_AROUND: Final = timedelta(seconds=60)
"""So far the clock of whoever says when a host ended may be from the server's, and so long Kubernetes takes to miss a node."""
_LATE: Final = timedelta(minutes=3)
"""So long after a trainer's end word of its host is waited for."""
_BATCH: Final = 1000


async def end_of_host(context: ControlContext, trainer: Trainer) -> RunTrouble | None:
    """What ended the host that it ran on, about when it was last heard of; of one with workers, any host."""
    if context.ends is None or trainer.start_time is None:
        return None
    last_word = trainer.lease_expire_time - context.settings.lease
    until = trainer.end_time + _AROUND if trainer.end_time else None
    try:
        return await context.ends.ended(trainer.hostname if trainer.workers == 1 else "", last_word - _AROUND, until)
    except Unavailable:
        return None


async def hear_late_words(context: ControlContext) -> None:
    """Tell the jobs of trainers that were lost of late what the cluster had not said by then."""
    if context.ends is None:
        return
    async with context.units(write=False) as unit:
        over = await unit.trainers.ended_since(context.now() - _LATE, _BATCH)

    async def hear(trainer: Trainer) -> None:
        await _hear(context, trainer)

    await for_each([trainer for trainer in over if trainer.outcome != LEFT], hear)


async def _hear(context: ControlContext, trainer: Trainer) -> None:
    trouble = await end_of_host(context, trainer)
    if trouble is None or trouble.message in trainer.outcome:
        return
    last_word = trainer.lease_expire_time - context.settings.lease
    async with context.units(write=False) as unit:
        attempts = await unit.trainers.attempts_ended_since(trainer.uid, last_word)

    async def tell(attempt: Attempt) -> None:
        await hear_late_word(context, attempt, trouble)

    await for_each([attempt for attempt in attempts if attempt.outcome != COMPLETED], tell)
    async with context.units() as unit:
        present = await unit.trainers.get(trainer.uid, for_update=True)
        if present is not None and trouble.message not in present.outcome:
            await unit.trainers.save(present.told(trouble.message))
            await unit.commit()
