"""Jobs of the tests: what they are asked to do, and what is looked at afterwards."""

import io
import threading
from collections.abc import Callable

from tests.e2e.patience import until

import trellis
from trellis.client.types import JobEvent, JobState

STEPS = 150
SPEC = trellis.TrainingSettings(
    lora=trellis.LoraSpec(rank=4),
    epochs=100,
    max_steps=STEPS,
    batch_size=8,
    learning_rate=3e-3,
    seed=7,
    checkpoint_steps=10,
    max_evaluation_lines=5,
)
DATASET = "boxes"
_SECONDS = 400.0


def upload(client: trellis.Client, data: bytes, dataset: str = DATASET) -> str:
    """The version's name."""
    version = client.datasets.upload(io.BytesIO(data), dataset=dataset, filename=f"{dataset}.jsonl")
    assert version.state == "READY", version.summary
    return version.name


class Watching:
    """Watches a job from its first to its last event in a thread of its own, over whatever happens to the server."""

    def __init__(self, client: trellis.Client, job: str) -> None:
        self.events: list[JobEvent] = []
        self.error: Exception | None = None
        self.job = job
        self._client = client
        self._thread = threading.Thread(target=self._run, name=f"watch {job}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for event in self._client.jobs.watch(self.job, timeout=_SECONDS):
                self.events.append(event)
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits
            self.error = error

    def until(self, condition: Callable[[JobEvent], object], what: str) -> JobEvent:
        """The first event that is so."""

        return until(lambda: self.seen(condition), what)

    def seen(self, condition: Callable[[JobEvent], object]) -> JobEvent | None:
        """The first event so far that is so."""
        alive = self._thread.is_alive()
        found = next((event for event in self.events if condition(event)), None)
        assert found or alive, f"the job ended before that; {self.error or self.said()}"
        return found

    def finish(self) -> list[JobEvent]:
        """All events, once the job has ended."""
        self._thread.join(_SECONDS)
        assert not self._thread.is_alive(), self.said()
        if self.error:
            raise self.error
        return self.events

    def said(self) -> list[str]:
        return [event.message for event in self.events if event.message]


def at_step(step: int) -> Callable[[JobEvent], bool]:
    return lambda event: event.progress is not None and event.progress.step >= step


def in_phase(*phases: str) -> Callable[[JobEvent], bool]:
    return lambda event: event.progress is not None and event.progress.phase in phases


def in_state(state: JobState) -> Callable[[JobEvent], bool]:
    return lambda event: event.state is state


def has_checkpoint(event: JobEvent) -> bool:
    return event.checkpoint is not None


def losses(client: trellis.Client, job: str) -> dict[int, float]:
    """Training losses by step; asserts that each step's is there once."""
    points = [point for point in client.jobs.metrics(job) if "train_loss" in point.values]
    steps = [point.step for point in points]
    assert len(steps) == len(set(steps)), f"steps came twice: {steps}"
    return {point.step: point.values["train_loss"] for point in points}


def gapless(events: list[JobEvent]) -> bool:
    """Whether the sequence counts from one without a gap or a repeat."""
    return [event.sequence for event in events] == list(range(1, len(events) + 1))
