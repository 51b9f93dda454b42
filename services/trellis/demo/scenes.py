"""The scenes of the demonstration, one function each; every one goes through the public SDK."""

import io
import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

import trellis
from trellis.demo.board import Board
from trellis.demo.tasks import Example, Task

LINES = 400
_SEED = 0
_SETTINGS = trellis.TrainingSettings(epochs=5, learning_rate=5e-3, max_evaluation_lines=64, held_out_fraction=0.15)


class DemoError(RuntimeError):
    """The demonstration did not come out as it must; `str()` says how."""


@dataclass(slots=True)
class Actor:
    """A tenant with its task, its key, and what came of its job."""

    task: Task
    secret: str
    client: trellis.Client
    job: trellis.TuningJob | None = None
    seconds: float = 0.0
    """From submitting to the finished adapter."""

    @property
    def finished(self) -> trellis.TuningJob:
        """The job, once it is over."""
        assert self.job is not None
        return self.job


def enter(endpoint: str, admin_key: str, tasks: Sequence[Task]) -> list[Actor]:
    """The operator makes a tenant and a member's key for each task."""
    actors = []
    with trellis.Client(endpoint, api_key=admin_key) as admin:
        for task in tasks:
            try:
                admin.tenants.create(task.tenant)
            except trellis.AlreadyExists:
                pass  # the folder was used before
            secret = admin.api_keys.create(f"tenants/{task.tenant}", display_name="demo").secret
            actors.append(Actor(task, secret, trellis.Client(endpoint, api_key=secret, tenant=task.tenant)))
    return actors


def upload(actor: Actor, console: Console) -> None:
    """The tenant uploads its lines and reads the report on them."""
    examples = actor.task.examples(LINES, _SEED)
    data = "".join(example.to_line() + "\n" for example in examples).encode()
    actor.client.datasets.upload(io.BytesIO(data), dataset=actor.task.dataset, filename=f"{actor.task.dataset}.jsonl")
    report = actor.client.datasets.report(actor.task.dataset)
    console.print(f"  {actor.task.tenant:<8}{actor.task.title}", highlight=False)
    console.print(f"  {'':<8}such as: {examples[0].message} → {examples[0].answer}", style="dim", highlight=False)
    console.print(f"  {'':<8}{report.summary}", style="dim", highlight=False)
    if not report.valid:
        raise DemoError(f"{actor.task.dataset} can't be trained on: {report.summary}")


def tune(actors: Sequence[Actor], console: Console) -> None:
    """Both tenants submit a job; both are watched to their end."""
    with Board(console) as board, ThreadPoolExecutor(len(actors)) as pool:
        for actor in actors:
            board.add(actor.task.tenant)
        list(pool.map(lambda actor: _tune_one(actor, board), actors))


def _tune_one(actor: Actor, board: Board) -> None:
    client, task = actor.client, actor.task
    began = time.monotonic()
    job = client.jobs.create(task.dataset, alias=task.dataset, deploy=True, supervised=_SETTINGS)
    for event in client.jobs.watch(job.name):
        board.show(task.tenant, event)
    actor.job = client.jobs.wait(job.name)
    actor.seconds = time.monotonic() - began


def table(actors: Sequence[Actor]) -> Table:
    """Base against tuned, on lines that were held out."""
    found = Table(box=None, pad_edge=False, padding=(0, 2))
    for heading in ("", "held-out lines", "loss", "tokens right", "answers exact", "seconds"):
        found.add_column(heading, justify="left" if not heading else "right")
    for actor in actors:
        job = actor.finished
        assert job.base_evaluation is not None
        assert job.tuned_evaluation is not None
        for who, evaluation in (("base", job.base_evaluation), ("tuned", job.tuned_evaluation)):
            found.add_row(
                f"  {actor.task.tenant} {who}",
                str(evaluation.line_count),
                f"{evaluation.loss:.2f}",
                f"{evaluation.token_accuracy:.0%}",
                f"{evaluation.exact_match:.0%}",
                f"{actor.seconds:.0f}" if who == "tuned" else "",
                style="bold" if who == "tuned" else "dim",
            )
    return found


def summary(actors: Sequence[Actor]) -> dict[str, object]:
    """The table for programs: of each tenant the scores (share of exact answers), lines and seconds."""
    found: dict[str, object] = {}
    for actor in actors:
        job = actor.finished
        assert job.base_evaluation is not None
        assert job.tuned_evaluation is not None
        found[actor.task.tenant] = {
            "task": actor.task.title,
            "lines": LINES,
            "held_out_lines": job.tuned_evaluation.line_count,
            "base": job.base_evaluation.exact_match,
            "tuned": job.tuned_evaluation.exact_match,
            "base_loss": job.base_evaluation.loss,
            "tuned_loss": job.tuned_evaluation.loss,
            "seconds": round(actor.seconds, 1),
        }
    return found


def call_both(actors: Sequence[Actor], console: Console) -> None:
    """New messages of both tenants, at once, on one copy of the base: the pieces arrive interleaved."""
    for actor in actors:
        actor.client.adapters.deploy(actor.finished.adapter)
    order: list[str] = []
    lock = threading.Lock()

    def ask(actor: Actor, example: Example) -> tuple[Actor, Example, str]:
        said = ""
        for chunk in actor.client.generate_stream(actor.task.dataset, example.message, temperature=0.0, max_tokens=64):
            said += chunk.text
            with lock:
                order.append(actor.task.tenant)
        return actor, example, said

    questions = [(actor, example) for actor in actors for example in _unseen(actor.task, 3)]
    with ThreadPoolExecutor(len(questions)) as pool:
        for actor, example, said in pool.map(lambda question: ask(*question), questions):
            mark = "[green]✓[/green]" if said.strip() == example.answer else "[red]✗[/red]"
            console.print(f"  {actor.task.tenant:<8}{example.message}", highlight=False, markup=False)
            console.print(f"  {'':<8}{mark} ", end="", highlight=False)
            console.print(said, style="bold", highlight=False, markup=False)
    switches = sum(a != b for a, b in itertools.pairwise(order))
    console.print(
        f"  {len(order)} pieces came; {switches} times the next one was the other tenant's.",
        style="dim",
        highlight=False,
    )


def _unseen(task: Task, count: int) -> list[Example]:
    seen = {example.message for example in task.examples(LINES, _SEED)}
    fresh = [example for example in task.examples(count + 40, _SEED + 1) if example.message not in seen]
    return fresh[:count]


def intrude(one: Actor, other: Actor, console: Console) -> None:
    """One tenant asks for the other's adapter, and must be refused."""
    adapter = other.finished.adapter
    try:
        one.client.generate(adapter, "Hello?", max_tokens=4)
    except trellis.PermissionDenied as error:
        console.print(f"  {one.task.tenant} called {adapter}", highlight=False)
        console.print(f"  refused: {error} [{error.reason}]", style="bold", highlight=False, markup=False)
        return
    raise DemoError(f"{one.task.tenant} was let in to {adapter}.")
