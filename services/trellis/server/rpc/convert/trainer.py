"""What shared trainers and the server say to each other."""

import math

from trellis.server.app.attempts import Process
from trellis.server.app.trainers import Claimed, TrainerSetup, TrainerWord
from trellis.server.domain.trainer import Room, Trainer
from trellis.server.rpc.convert.enums import to_wire
from trellis.server.rpc.convert.times import timestamp
from trellis.v1 import trainer_pb2 as pb


def process(request: pb.StartTrainerRequest) -> Process:
    """What the process says of itself."""
    return Process(request.code_version, request.hostname, request.pid, request.nonce)


def setup(value: TrainerSetup) -> pb.StartTrainerResponse:
    """What the trainer is to do, on the wire."""
    return pb.StartTrainerResponse(
        trainer=value.trainer,
        base_model=value.base.base_model,
        base_source=value.base.base_source,
        base_revision=value.base.base_revision,
        tokenizer_digest=value.base.tokenizer_digest,
        precision=value.base.precision,
        store_url=value.store_url,
        heartbeat_seconds=value.heartbeat_seconds,
        idle_seconds=value.options.idle_seconds,
        max_jobs=value.options.max_jobs,
        workers=value.workers,
        worker_cpus=value.options.cpus,
        worker_gpus=value.options.gpus,
        token=value.token,
    )


def word(request: pb.ClaimAttemptsRequest) -> TrainerWord:
    """What the trainer says of itself; a number that is none counts as 0."""
    room = request.room
    return TrainerWord(
        room=Room(room.jobs, room.rank_rows, room.line_tokens) if request.HasField("room") else None,
        jobs=max(0, request.jobs),
        tokens_per_second=_finite(request.tokens_per_second),
        wait_seconds=_finite(request.wait_seconds),
    )


def claimed(value: Claimed) -> pb.ClaimAttemptsResponse:
    """What the trainer is given, on the wire."""
    attempts = [
        pb.ClaimedAttempt(token=one.token, tuning_job=one.tuning_job, attempt=one.attempt) for one in value.attempts
    ]
    return pb.ClaimAttemptsResponse(attempts=attempts, drain=value.drain)


def trainer(value: Trainer, jobs: int) -> pb.Trainer:
    """The trainer, as operators see it, on the wire."""
    room = value.room
    return pb.Trainer(
        name=f"trainers/{value.uid}",
        base_model=value.base_model,
        precision=value.precision,
        state=to_wire(pb.Trainer.State, "STATE_", value.state),
        jobs=jobs,
        room=_room(room) if room else None,
        tokens_per_second=value.tokens_per_second,
        workers=value.workers,
        cpus=value.cpus,
        gpus=value.gpus,
        hostname=value.hostname,
        create_time=timestamp(value.create_time),
        report_time=timestamp(value.room_time or value.start_time),
    )


def _room(value: Room) -> pb.TrainerRoom:
    return pb.TrainerRoom(jobs=value.jobs, rank_rows=int(value.rank_rows), line_tokens=value.line_tokens)


def _finite(number: float) -> float:
    return max(0.0, number) if math.isfinite(number) else 0.0
