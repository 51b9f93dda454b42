"""A job's events and log, as they come."""

from collections.abc import AsyncIterator, Sequence
from functools import partial

from trellis.errors import InvalidArgument, NotFound
from trellis.names import TuningJobName
from trellis.server.app.context import Context
from trellis.server.app.tuning_jobs import LogPiece, present_job
from trellis.server.domain.marks import JobMark
from trellis.server.domain.tuning_job import JobEvent, TuningJob

_BATCH = 500
_LOG_BATCH = 50


async def watch_tuning_job(
    context: Context, name: str, after_sequence: int
) -> AsyncIterator[tuple[TuningJob, JobEvent]]:
    """The job's events with a higher sequence, without gaps, until it has ended and its last one was given."""
    job = await _job_from(context, name, "after_sequence", after_sequence)
    while True:
        read = partial(_events, context, job.uid, after_sequence)
        present, events = await context.together.read((job.uid, "events", after_sequence), read)
        if present is None:
            raise NotFound.for_resource(name)
        for event in events:
            yield present, event
            after_sequence = event.sequence
        if len(events) == _BATCH:
            continue
        if present.ended:
            return
        await context.jobs.news(job.uid, partial(_has_events, after_sequence))


async def read_log(context: Context, name: str, offset: int, *, follow: bool) -> AsyncIterator[LogPiece]:
    """What the job's processes printed, after `offset`; with `follow` until the job has ended."""
    job = await _job_from(context, name, "offset", offset)
    while True:
        read = partial(_pieces, context, job.uid, offset)
        present, pieces = await context.together.read((job.uid, "log", offset), read)
        if present is None:
            raise NotFound.for_resource(name)
        for next_offset, attempt, text in pieces:
            yield LogPiece(text, attempt, next_offset)
            offset = next_offset
        if len(pieces) == _LOG_BATCH:
            continue
        if present.ended or not follow:
            return
        await context.jobs.news(job.uid, partial(_has_log, offset))


async def _events(context: Context, uid: str, after_sequence: int) -> tuple[TuningJob | None, Sequence[JobEvent]]:
    # The job is read first: if it has ended by then, all of its events are there to be read.
    async with context.units(write=False) as unit:
        return await unit.jobs.get_by_uid(uid), await unit.jobs.events(uid, after_sequence, _BATCH)


async def _pieces(context: Context, uid: str, offset: int) -> tuple[TuningJob | None, Sequence[tuple[int, int, str]]]:
    async with context.units(write=False) as unit:
        return await unit.jobs.get_by_uid(uid), await unit.jobs.read_log(uid, offset, _LOG_BATCH)


def _has_events(after_sequence: int, mark: JobMark | None) -> bool:
    return mark is None or mark.ended or mark.event_count > after_sequence


def _has_log(offset: int, mark: JobMark | None) -> bool:
    return mark is None or mark.ended or mark.log_size > offset


async def _job_from(context: Context, name: str, field: str, position: int) -> TuningJob:
    parsed = TuningJobName.parse(name)
    if position < 0:
        raise InvalidArgument.for_field(field, f"{position} must not be negative.")
    async with context.units(write=False) as unit:
        return await present_job(unit, parsed)
