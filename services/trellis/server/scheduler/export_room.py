"""Room for an export: it waits for what it needs like everybody, but stands in no queue that could have others leave."""

import functools
from collections.abc import Iterator
from datetime import timedelta

from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.snapshot import PresentTrainer, Snapshot


def trainers_in_the_way(snapshot: Snapshot) -> tuple[str, ...]:
    """The uids of shared trainers to be told to leave, so that the export gets the room that it is kept; none if those that
    leave already make enough, or if all of them together would not.

    Idle ones go first, then those that had their turn, with the fewest jobs first: a trainer that is always busy would
    otherwise keep an export waiting for ever.
    """
    staying = [trainer for trainer in snapshot.trainers if trainer.takes_jobs]
    held = (*(job.needs for job in snapshot.active if not job.leaving), *(trainer.needs for trainer in staying))
    taken = functools.reduce(Resources.plus, held, snapshot.held)
    if snapshot.held == Resources() or taken.fits_into(snapshot.capacity):
        return ()
    chosen: list[str] = []
    for trainer in _in_order(snapshot, staying):
        chosen.append(trainer.uid)
        taken = taken.minus(trainer.needs)
        if taken.fits_into(snapshot.capacity):
            return tuple(chosen)
    return ()


def _in_order(snapshot: Snapshot, trainers: list[PresentTrainer]) -> Iterator[PresentTrainer]:
    turn = timedelta(seconds=snapshot.options.turn_seconds)
    able = [trainer for trainer in trainers if trainer.is_idle or snapshot.now - trainer.create_time >= turn]
    return iter(sorted(able, key=lambda trainer: (trainer.open_jobs, trainer.create_time, trainer.uid)))
