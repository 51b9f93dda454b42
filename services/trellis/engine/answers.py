"""The answers to one request, and what is told of them."""

from dataclasses import dataclass

from trellis.engine.output import Output
from trellis.engine.request import Request
from trellis.engine.sampler import Choice
from trellis.engine.sequence import Sequence
from trellis.errors import TrellisError


@dataclass(frozen=True, slots=True)
class Answers:
    """A request with the sequences that answer it; the first computes the prompt for all."""

    request: Request
    sequences: tuple[Sequence, ...]
    since: float = 0.0
    """When it was submitted, on the engine's clock."""

    @property
    def is_finished(self) -> bool:
        """Whether all of them are complete."""
        return all(sequence.is_finished for sequence in self.sequences)

    def append(self, sequence: Sequence, choice: Choice) -> Output:
        """Give one of them its next token; the piece that it makes."""
        said = sequence.append(choice)
        return Output(
            self.request.request_id,
            index=sequence.index,
            text=said.text,
            token_ids=(choice.token_id,),
            logprobs=said.logprobs,
            finish_reason=said.finish_reason,
            prompt_tokens=len(self.request.prompt_ids),
            cached_prompt_tokens=self.sequences[0].cached,
            completion_tokens=self._completion_tokens(),
            queued_seconds=self._queued_seconds(),
            is_last=said.finish_reason is not None and self.is_finished,
        )

    def fail(self, error: TrellisError) -> Output:
        """The last piece, when they can't go on."""
        return Output(
            self.request.request_id,
            error=error,
            prompt_tokens=len(self.request.prompt_ids),
            cached_prompt_tokens=self.sequences[0].cached,
            completion_tokens=self._completion_tokens(),
            queued_seconds=self._queued_seconds(),
            is_last=True,
        )

    def _queued_seconds(self) -> float | None:
        began = self.sequences[0].began
        return None if began is None else max(0.0, began - self.since)

    def _completion_tokens(self) -> int:
        return sum(sequence.answer_tokens for sequence in self.sequences)
