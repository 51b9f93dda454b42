"""How a job that is watched is shown: a live bar on a terminal, plain lines elsewhere, JSON lines for programs."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol, Self

import click

from trellis.cli.output import cell, clean, print_json, print_line, print_one, print_table
from trellis.client.types import EventLevel, JobEvent, JobState, Progress, TuningJob

_COLOURS = {JobState.SUCCEEDED: "green", JobState.FAILED: "red", JobState.CANCELLED: "yellow"}


class JobView(Protocol):
    """Shows events as they come."""

    def show(self, event: JobEvent) -> None:
        """Show one."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def view_of(*, as_json: bool) -> JobView:
    """What suits the output."""
    if as_json:
        return JsonView()
    return LiveView() if sys.stdout.isatty() else PlainView()


class JsonView:
    """Each event as a line of JSON."""

    def show(self, event: JobEvent) -> None:
        """Show one."""
        print_line(event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class PlainView(JsonView):
    """A line for what matters; progress at each twentieth of the way."""

    def __init__(self) -> None:
        self._shown = ("", -1)

    def show(self, event: JobEvent) -> None:
        """Show one."""
        if event.progress is not None:
            mark = (event.progress.phase, 20 * event.progress.step // max(1, event.progress.total_steps))
            if mark != self._shown:
                self._shown = mark
                click.echo(f"{_time(event)}  {progress_text(event.progress)}")
        elif event.metrics is None:
            click.echo(f"{_time(event)}  {_message(event)}")


class LiveView(JsonView):
    """A bar that moves, and the messages above it."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress as Bar, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        self._bar: Any = Bar(*columns, transient=True)
        self._task: Any = self._bar.add_task("waiting", total=None, text="")

    def show(self, event: JobEvent) -> None:
        """Show one."""
        if event.progress is not None:
            found = event.progress
            total = found.total_steps or None
            self._bar.update(
                self._task, description=found.phase, completed=found.step, total=total, text=_numbers(found)
            )
        elif event.metrics is None:
            self._bar.console.print(f"{_time(event)}  {_message(event)}", markup=False, highlight=False)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def _time(event: JobEvent) -> str:
    return event.time.astimezone().strftime("%H:%M:%S") if event.time else "--:--:--"


def _message(event: JobEvent) -> str:
    level = "" if event.level in {EventLevel.INFO, EventLevel.UNSPECIFIED} else f"{event.level}: "
    state = f"{event.state}  " if event.state else ""
    return f"{state}{level}{clean(event.message)}"


def progress_text(progress: Progress) -> str:
    """How far it has come, in one line."""
    return f"{progress.phase}  {_numbers(progress)}".strip()


def _numbers(progress: Progress) -> str:
    parts = [f"step {progress.step}/{progress.total_steps}"] if progress.total_steps else []
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.eta is not None:
        parts.append(f"ETA {span(progress.eta)}")
    return "  ".join(parts)


def span(time: timedelta) -> str:
    """A span for people, such as `1:05:09` or `4:07`."""
    minutes, seconds = divmod(max(0, round(time.total_seconds())), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def show_job(job: TuningJob, *, as_json: bool) -> None:
    """A job with all its fields; what rules chose as a table, which JSON has as a field."""
    if as_json:
        print_json(job)
        return
    print_one(replace(job, resolved_settings=(), warnings=()), as_json=False)
    if job.resolved_settings:
        click.echo()
        print_table(["CHOSEN", "VALUE", "RULE"], [[one.field, one.value, one.rule] for one in job.resolved_settings])
    if job.warnings:
        click.echo()
    for one in job.warnings:
        click.echo(warning_line(one))


def show_outcome(job: TuningJob) -> None:
    """How a job ended, and what held-out data says of it."""
    click.echo(click.style(f"{job.name} {job.state}", fg=_COLOURS.get(job.state), bold=True))
    if job.error is not None:
        click.echo(f"  {clean(job.error.message)} [{job.error.reason or job.error.status}]")
    if job.adapter:
        click.echo(f"  adapter  {job.adapter}")
    if job.export:
        click.echo(f"  model    {job.export}")
    if job.usage is not None and job.usage.trained_tokens:
        click.echo(f"  usage    {job.usage.trained_tokens:,} tokens, {job.usage.trainer_seconds:,.1f} trainer seconds")
    rows = [[name, *_scores(found)] for name, found in _evaluations(job)]
    if rows:
        click.echo()
        print_table(["HELD-OUT", "LOSS", "TOKEN ACCURACY", "EXACT MATCH", "LINES"], rows)
    for one in job.warnings:
        click.echo(warning_line(one))


def warning_line(message: str) -> str:
    """What is to be known of what a job made."""
    return f"{click.style('WARNING', fg='yellow')}  {clean(message)}"


def _evaluations(job: TuningJob) -> Iterable[tuple[str, Any]]:
    return ((name, e) for name, e in (("base", job.base_evaluation), ("tuned", job.tuned_evaluation)) if e is not None)


def _scores(evaluation: Any) -> list[str]:
    matched = f"{evaluation.exact_match:.1%}" if evaluation.answered_line_count else "-"
    return [cell(evaluation.loss), f"{evaluation.token_accuracy:.1%}", matched, str(evaluation.line_count)]
