"""What held-out data says of a model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

from trellis.v1.tuning_job_pb2 import TuningJob

MAX_LOSS_LINES = 5000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Loss in nats a trained token, by weight; shares of trained tokens ranked first and of lines answered exactly."""

    loss: float
    token_accuracy: float
    exact_match: float
    line_count: int
    answered_line_count: int

    def to_proto(self) -> TuningJob.Evaluation:
        """The evaluation as it is reported."""
        return TuningJob.Evaluation(**asdict(self))

    def metrics(self) -> dict[str, float]:
        """The evaluation as metrics of a step."""
        values = {"valid_loss": self.loss, "valid_token_accuracy": self.token_accuracy}
        return values | ({"valid_exact_match": self.exact_match} if self.answered_line_count else {})

    def __str__(self) -> str:
        matched = (
            f", {self.exact_match:.1%} of {self.answered_line_count} answers exact" if self.answered_line_count else ""
        )
        lines = "1 held-out line" if self.line_count == 1 else f"{self.line_count} held-out lines"
        return f"loss {self.loss:.4f}, {self.token_accuracy:.1%} of tokens{matched} ({lines})"


def groups_of(items: Sequence[T], size_of: Callable[[T], int], budget: int) -> Iterator[list[T]]:
    """Runs of items, the largest first, that with padding stay within the budget; at least one item each."""
    group: list[T] = []
    largest = 0
    for item in items:
        largest = max(largest, size_of(item))
        if group and largest * (len(group) + 1) > budget:
            yield group
            group, largest = [], size_of(item)
        group.append(item)
    if group:
        yield group
