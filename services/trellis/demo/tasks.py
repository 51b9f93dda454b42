"""What a demonstration task is."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Example:
    """A message and the answer that is wanted."""

    message: str
    answer: str

    def to_line(self) -> str:
        """The example as a line of a chat dataset."""
        turns = [{"role": "user", "content": self.message}, {"role": "assistant", "content": self.answer}]
        return json.dumps({"messages": turns}, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Task:
    """A tenant's task; its data is generated, and the same for the same seed."""

    tenant: str
    dataset: str
    title: str
    make: Callable[[Random], Example]

    def examples(self, count: int, seed: int) -> list[Example]:
        """So many different examples."""
        rng = Random(f"{self.dataset} {seed}")
        found: dict[str, Example] = {}
        while len(found) < count:
            example = self.make(rng)
            found.setdefault(example.message, example)
        return list(found.values())
