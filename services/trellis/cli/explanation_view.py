"""How an explanation of a job is shown."""

from collections.abc import Iterator
from datetime import datetime

import click

from trellis.cli.job_view import span, warning_line
from trellis.cli.output import cell, clean, print_json
from trellis.client.types import JobState, TuningJobExplanation


def show_explanation(found: TuningJobExplanation, *, as_json: bool) -> None:
    """As a text to be read, or as it came."""
    if as_json:
        print_json(found)
        return
    for line in explanation_lines(found):
        click.echo(line)


def explanation_lines(found: TuningJobExplanation) -> Iterator[str]:
    """What there is to say, most important first."""
    name = click.style(found.tuning_job, bold=True)
    if found.state is JobState.STARTING and found.reasons:
        yield f"{name} has been given capacity, and waits for the cluster."
        yield from _why(found)
        return
    if found.state is not JobState.QUEUED:
        yield f"{name} is {found.state} and waits for nothing."
        yield from (f"  {warning_line(one)}" for one in found.warnings)
        return
    yield f"{name} waits."
    if found.reasons:
        yield from _why(found)
    yield ""
    yield "Before it"
    yield f"  {_before(found)}"
    yield from (f"  {clean(one)}" for one in found.own_jobs_before)
    yield ""
    yield "When"
    yield f"  {_when(found)}"
    if found.alternatives:
        yield ""
        yield "Sooner, if it is cancelled and submitted again so"
        for one in found.alternatives:
            yield f"  {clean(one.message)}  ({clean(one.field)} = {clean(one.value)})"


def _why(found: TuningJobExplanation) -> Iterator[str]:
    yield ""
    yield "Why"
    for reason in found.reasons:
        yield f"  {click.style(reason.code.value, fg='yellow')}  {clean(reason.message)}"


def _before(found: TuningJobExplanation) -> str:
    own = found.position - found.other_jobs_before
    if not found.position:
        return "no job"
    return f"{_jobs(found.position)}: {own} of this tenant, {found.other_jobs_before} of others"


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def _when(found: TuningJobExplanation) -> str:
    if found.predicted_start_time is None or found.earliest_start_time is None or found.latest_start_time is None:
        return "nothing can be said"
    if found.time is not None and found.latest_start_time <= found.time:
        return "now"
    between = f"{cell(found.earliest_start_time)} and {cell(found.latest_start_time)}"
    return f"at about {cell(found.predicted_start_time)}{_in(found.predicted_start_time, found.time)}, in 9 of 10 cases between {between}"


def _in(time: datetime, now: datetime | None) -> str:
    return f", in {span(time - now)}" if now is not None and time > now else ""
