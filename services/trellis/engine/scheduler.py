"""Which requests run in a step: in the order of their arrival, as many as fit."""

from collections import deque
from dataclasses import dataclass, field

from trellis.engine.sequence import Sequence


@dataclass(slots=True)
class Scheduler:
    """Requests that run and requests that wait; a request that runs gives every step one token."""

    max_running: int
    max_waiting: int
    max_prompt_tokens: int
    """Prompts of at most so many tokens together begin in one step, so that a flood of them does not stall the others;
    one always may."""
    _running: list[Sequence] = field(default_factory=list)
    _waiting: deque[Sequence] = field(default_factory=deque)

    @property
    def running(self) -> int:
        """How many requests run."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def is_full(self) -> bool:
        """Whether no further request may wait."""
        return self.running + self.waiting >= self.max_running + self.max_waiting

    def add(self, sequence: Sequence) -> None:
        """Let a request wait for its turn."""
        assert not self.is_full(), "ask is_full first"
        self._waiting.append(sequence)

    def schedule(self) -> list[Sequence]:
        """The requests of this step: those that run, and those that may begin now."""
        budget = self.max_prompt_tokens
        while self._waiting and len(self._running) < self.max_running:
            tokens = len(self._waiting[0].pending_ids)
            if tokens > budget and budget < self.max_prompt_tokens:
                break
            budget -= tokens
            self._running.append(self._waiting.popleft())
        return list(self._running)

    def remove(self, sequence: Sequence) -> None:
        """Let go of a request, wherever it is."""
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
