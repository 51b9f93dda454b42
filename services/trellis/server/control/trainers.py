"""What the loops share about trainers: their names, their tokens, and how one is made and ended."""

from datetime import datetime

from trellis.server.app.authentication import secret_hash
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.tokens import trainer_token
from trellis.server.control.context import ControlContext
from trellis.server.domain.trainer import Trainer, TrainerBase, TrainerState


def trainer_run_prefix(installation: str) -> str:
    """What the names of trainers' runs on the cluster begin with; not as those of attempts do."""
    return f"trellis-trainer-{installation}-"


def new_trainer(context: ControlContext, base: TrainerBase, now: datetime) -> Trainer:
    """A trainer that is to be started."""
    settings, options = context.settings, context.settings.trainers
    uid = context.ids.new_id("trainer")
    return Trainer(
        uid=uid,
        base_model=base.base_model,
        base_source=base.base_source,
        base_revision=base.base_revision,
        tokenizer_digest=base.tokenizer_digest,
        precision=base.precision,
        state=TrainerState.STARTING,
        token_hash=secret_hash(trainer_token(settings.server_secret, uid)),
        submission_id=f"{trainer_run_prefix(settings.installation)}{uid}",
        cpus=options.cpus * options.workers,
        gpus=options.gpus * options.workers,
        workers=options.workers,
        create_time=now,
        lease_expire_time=now + settings.start_timeout,
        busy_time=now,
    )


async def end_trainer(
    unit: UnitOfWork, context: ControlContext, seen: Trainer, outcome: str, *, unless_renewed: bool = False
) -> bool:
    """End the trainer, unless it is over already; False if there was nothing to end. Its attempts are ended next.

    With `unless_renewed` it goes on if it has called since it was read.
    """
    present = await unit.trainers.get(seen.uid, for_update=True)
    if present is None or present.is_over:
        return False
    if unless_renewed and present.lease_expire_time != seen.lease_expire_time:
        return False
    await unit.trainers.save(present.ended(context.now(), outcome))
    return True
