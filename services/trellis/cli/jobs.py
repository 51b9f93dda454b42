"""`trellis jobs …`."""

from pathlib import Path
from typing import Any

import click

from trellis.cli.commands import group
from trellis.cli.job_options import method_arguments, method_options
from trellis.cli.job_view import progress_text, show_job, show_outcome, view_of
from trellis.cli.output import cell, deleted, print_json, print_line, print_many, print_one, print_table, said
from trellis.cli.plot import plot
from trellis.cli.state import State
from trellis.client.types import JobState, MetricPoint, TuningJob

_STATES = [state.value.lower() for state in JobState if state is not JobState.UNSPECIFIED]


@group("jobs")
def jobs() -> None:
    """Tune, watch, and see what was measured."""


@jobs.command("create")
@click.option("--dataset", required=True, help="A dataset (its newest version), or DATASET@SHA256.")
@click.option("--validation-dataset", default="", help="Evaluate on it instead of on held-out lines.")
@click.option("--replay-dataset", default="", help="Mix in its lines, against forgetting.")
@click.option("--from-adapter", default="", help="Start from this adapter, alias or checkpoint.")
@click.option("--base-model", default="", help="[default: the platform's]")
@click.option("--alias", default="", help="Point this alias at the adapter in the end.")
@click.option("--deploy", is_flag=True, help="Deploy the adapter in the end.")
@click.option(
    "--priority",
    type=click.IntRange(-100, 100),
    default=0,
    help="Higher ones of a tenant go first; beyond 0, where its quota allows that, also before others'.  [default: 0]",
)
@click.option("--display-name", default="", help="What people call it.")
@click.option("--job-id", default="", help="The last part of its name.  [default: made by the server]")
@click.option("--watch", "watch_it", is_flag=True, help="Watch it until it has ended.")
@method_options
@click.pass_obj
def create(
    state: State,
    /,
    dataset: str,
    validation_dataset: str,
    replay_dataset: str,
    from_adapter: str,
    base_model: str,
    alias: str,
    deploy: bool,
    priority: int,
    display_name: str,
    job_id: str,
    watch_it: bool,
    **settings: Any,
) -> None:
    """Submit a job."""
    job = state.client.jobs.create(
        dataset,
        base_model=base_model,
        validation_dataset=validation_dataset,
        replay_dataset=replay_dataset,
        initial_adapter=from_adapter,
        alias=alias,
        deploy=deploy,
        priority=priority,
        display_name=display_name,
        job_id=job_id,
        **method_arguments(settings),
    )
    if watch_it:
        said(f"Submitted {job.name}.", as_json=state.json)
        _watch(state, job.name, 0)
    else:
        show_job(job, as_json=state.json)


@jobs.command("list")
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="Only such jobs.")
@click.option("--all-tenants", is_flag=True, help="Every tenant's; for admins.")
@click.pass_obj
def list_(state: State, states: tuple[str, ...], all_tenants: bool) -> None:
    """List jobs, newest first."""
    wanted = [JobState(one.upper()) for one in states]
    found = state.client.jobs.list(tenant="-" if all_tenants else None, states=wanted)
    if state.json:
        print_json(list(found))
        return
    rows = [
        [job.name, job.state.value, _going(job), cell(job.training_dataset), cell(job.create_time)] for job in found
    ]
    print_table(["NAME", "STATE", "PROGRESS", "TRAINING DATASET", "CREATE TIME"], rows)


def _going(job: TuningJob) -> str:
    if job.state in {JobState.QUEUED, JobState.STARTING} and job.queue_reason:
        return cell(job.queue_reason.message)
    if job.error:
        return cell(job.error.reason or job.error.status)
    return (progress_text(job.progress) if job.progress and not job.state.ended else "") or "-"


@jobs.command("get")
@click.argument("name")
@click.pass_obj
def get(state: State, name: str) -> None:
    """Show a job with every setting used, and the rules that chose what was not given."""
    show_job(state.client.jobs.get(name), as_json=state.json)


@jobs.command("explain")
@click.argument("name")
@click.pass_obj
def explain(state: State, name: str) -> None:
    """Say why a job waits, for how long, and what would let it start sooner."""
    from trellis.cli.explanation_view import show_explanation

    show_explanation(state.client.jobs.explain(name), as_json=state.json)


@jobs.command("watch")
@click.argument("name")
@click.option("--after-sequence", default=0, help="Only events after this one.")
@click.pass_obj
def watch(state: State, name: str, after_sequence: int) -> None:
    """Watch a job until it has ended, over restarts of the server; ends with code 1 unless it succeeded.

    A paused job is said to be, and watched on until it was resumed and has ended.
    """
    _watch(state, name, after_sequence)


def _watch(state: State, name: str, after_sequence: int) -> None:
    try:
        with view_of(as_json=state.json) as view:
            for event in state.client.jobs.watch(name, after_sequence=after_sequence):
                view.show(event)
    except KeyboardInterrupt:
        said(f"The job goes on. `trellis jobs watch {name}` looks again, `trellis jobs cancel {name}` stops it.",
             as_json=state.json)  # fmt: skip
        raise
    job = state.client.jobs.get(name)
    if not state.json:
        show_outcome(job)
    if job.state is not JobState.SUCCEEDED:
        raise click.exceptions.Exit(1)


@jobs.command("pause")
@click.argument("name")
@click.pass_obj
def pause(state: State, name: str) -> None:
    """Ask a job to save a checkpoint, leave, and wait until it is resumed."""
    print_one(state.client.jobs.pause(name), as_json=state.json)


@jobs.command("resume")
@click.argument("name")
@click.option(
    "--workers", type=int, help="Go on with so many, if the job runs by itself.  [default: as many as before]"
)
@click.pass_obj
def resume(state: State, name: str, workers: int | None) -> None:
    """Queue a paused job again; it goes on from its last checkpoint."""
    print_one(state.client.jobs.resume(name, workers=workers), as_json=state.json)


@jobs.command("preempt")
@click.argument("name")
@click.option("--reason", default="", help="Why, as a sentence for the job's user.")
@click.pass_obj
def preempt(state: State, name: str, reason: str) -> None:
    """Make a job give back its capacity: it saves a checkpoint and is queued again. For admins."""
    print_one(state.client.jobs.preempt(name, reason=reason), as_json=state.json)


@jobs.command("cancel")
@click.argument("name")
@click.pass_obj
def cancel(state: State, name: str) -> None:
    """Ask a job to stop."""
    print_one(state.client.jobs.cancel(name), as_json=state.json)


@jobs.command("logs")
@click.argument("name")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job has ended.")
@click.pass_obj
def logs(state: State, name: str, follow: bool) -> None:
    """Show what a job's processes printed."""
    for chunk in state.client.jobs.logs(name, follow=follow):
        if state.json:
            print_line(chunk)
        else:
            click.echo(chunk.text, nl=not chunk.text.endswith("\n"))


@jobs.command("metrics")
@click.argument("name")
@click.option("--plot", "draw", is_flag=True, help="Draw curves.")
@click.option("--metric", "chosen", multiple=True, help="Only this one; may be given again.")
@click.pass_obj
def metrics(state: State, name: str, draw: bool, chosen: tuple[str, ...]) -> None:
    """Show what was measured, by step."""
    points = list(state.client.jobs.metrics(name))
    if state.json:
        print_json(points)
    elif draw:
        click.echo(plot({name: _curve(points, name) for name in chosen or _losses(points)}))
    else:
        names = chosen or tuple(dict.fromkeys(key for point in points for key in point.values))
        rows = [[str(point.step), *(cell(point.values.get(key)) for key in names)] for point in points]
        print_table(["STEP", *(key.replace("_", " ").upper() for key in names)], rows)


def _losses(points: list[MetricPoint]) -> tuple[str, ...]:
    return tuple(name for name in ("train_loss", "valid_loss") if any(name in point.values for point in points))


def _curve(points: list[MetricPoint], name: str) -> list[tuple[float, float]]:
    return [(float(point.step), point.values[name]) for point in points if name in point.values]


@jobs.command("checkpoints")
@click.argument("name")
@click.pass_obj
def checkpoints(state: State, name: str) -> None:
    """List a job's committed checkpoints."""
    columns = ("step", "attempt", "valid_loss", "best", "pinned", "size_bytes", "create_time", "name")
    print_many(state.client.jobs.checkpoints(name), columns, as_json=state.json)


@jobs.command("pin")
@click.argument("name")
@click.argument("step", type=int)
@click.pass_obj
def pin(state: State, name: str, step: int) -> None:
    """Keep a checkpoint as long as its job."""
    print_one(state.client.jobs.pin_checkpoint(f"{name}/checkpoints/{step}"), as_json=state.json)


@jobs.command("unpin")
@click.argument("name")
@click.argument("step", type=int)
@click.pass_obj
def unpin(state: State, name: str, step: int) -> None:
    """Let a checkpoint go: it is deleted unless it is the best or one of the last two."""
    print_one(state.client.jobs.pin_checkpoint(f"{name}/checkpoints/{step}", pinned=False), as_json=state.json)


@jobs.command("promote")
@click.argument("name")
@click.argument("step", type=int)
@click.option("--display-name", default="", help="What people call the adapter.")
@click.pass_obj
def promote(state: State, name: str, step: int, display_name: str) -> None:
    """Make an adapter of a checkpoint, to be deployed like any other."""
    made = state.client.jobs.promote_checkpoint(f"{name}/checkpoints/{step}", display_name=display_name)
    print_one(made, as_json=state.json)


@jobs.command("debug-bundle")
@click.argument("name")
@click.option(
    "--output", "target", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The zip file to write."
)
@click.pass_obj
def debug_bundle(state: State, name: str, target: Path) -> None:
    """Put all that is known of a job into a zip file: settings, events, metrics, logs, reports; nothing secret."""
    from trellis.cli.job_bundle import write_bundle

    files = write_bundle(state.client, name, target)
    if state.json:
        print_json({"file": str(target), "files": files})
    else:
        click.echo(f"Wrote {target}, with {', '.join(files)}.")


@jobs.command("delete")
@click.argument("name")
@click.pass_obj
def delete(state: State, name: str) -> None:
    """Delete a job that has ended; its adapter stays."""
    state.client.jobs.delete(name)
    deleted(name, as_json=state.json)
