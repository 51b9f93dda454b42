"""What tenants learn: questions made of few words, and answers that follow from them, as long as wanted."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_WORDS: Final = (
    *("the", "old", "man", "went", "to", "a", "house", "in", "town", "and"),
    *("saw", "two", "dogs", "who", "ran", "by", "him", "for", "some", "time"),
)
_ANSWERS: Final = ("yes", "no", "good", "later", "never", "today")
_FRAME: Final = 5
"""Tokens of the chat template around a question and its answer: it begins, two roles speak, two turns end."""
_REPEATED: Final = 4
"""An answer repeats the first quarter of its question."""

CountTokens = Callable[[str], int]
"""Of a text, as the base reads it."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """The least and the greatest number of tokens of a line, about."""

    name: str
    low: int
    high: int

    @property
    def mean(self) -> float:
        """Of a line."""
        return (self.low + self.high) / 2


SHORT: Final = Lengths("short", 16, 40)
LONG: Final = Lengths("long", 248, 256)


def write_lines(file: Path, seed: str, count: int, lengths: Lengths, count_tokens: CountTokens) -> int:
    """Write so many lines, drawn by the seed; the number of their tokens."""
    chance = random.Random(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    total = 0
    with file.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            question, answer, tokens = _turns(chance, lengths, count_tokens)
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            stream.write(json.dumps({"messages": turns}) + "\n")
            total += tokens
    return total


def _turns(chance: random.Random, lengths: Lengths, count_tokens: CountTokens) -> tuple[str, str, int]:
    """A question, its answer, and the tokens of both, which are no more than the length that is drawn."""
    wanted = chance.randint(lengths.low, lengths.high)
    words = [chance.choice(_WORDS) for _ in range(wanted)]
    first = _ANSWERS[_WORDS.index(words[0]) % len(_ANSWERS)]
    size = wanted
    while True:
        question = " ".join(words[:size])
        answer = " ".join([first, *words[: size // _REPEATED]])
        tokens = count_tokens(question) + count_tokens(answer) + _FRAME
        if tokens <= wanted or size == 1:
            return question, answer, tokens
        size -= max(1, (tokens - wanted) // 2)
