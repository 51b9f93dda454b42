"""banking77: real bank customers' questions, each with one of 77 intents, as lines of chat."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ALL_INTENTS = 77
_ROOT = Path(__file__).parents[3]
_PLACES = (_ROOT / "shared/data/banking77", _ROOT.parent / "shared/data/banking77")
_MISSING = """banking77 is not here. Give --data a folder with its train.jsonl and test.jsonl, one line a question:
  {"messages": [{"role": "user", "content": "the question"}, {"role": "assistant", "content": "the_intent"}]}
or name the folder, or the one that has a `banking77` in it, in TRELLIS_SHARED_DATA. The dataset is public: "Efficient
Intent Detection with Dual Sentence Encoders", Casanueva et al. 2020, by PolyAI, under CC BY 4.0."""


class DatasetMissingError(FileNotFoundError):
    """There is no banking77 where it was looked for; `str()` says how to get it."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a customer asks, and the intent that is the right answer."""

    text: str
    intent: str

    def to_line(self) -> str:
        """The question as a line of chat."""
        turns = [{"role": "user", "content": self.text}, {"role": "assistant", "content": self.intent}]
        return json.dumps({"messages": turns}, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class Banking77:
    """Questions to train on, and those of the dataset's own test file."""

    train: tuple[Question, ...]
    test: tuple[Question, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """All of it."""
        return cls(_questions(folder / "train.jsonl"), _questions(folder / "test.jsonl"))

    def restricted(self, intents: int, train_each: int | None = None, test_each: int | None = None) -> Self:
        """Only the first intents by the alphabet, and of each at most so many lines, the first ones."""
        chosen = sorted({question.intent for question in self.train})[:intents]
        return type(self)(_some(self.train, chosen, train_each), _some(self.test, chosen, test_each))

    def write(self, folder: Path) -> tuple[Path, Path]:
        """The two files, as they are uploaded and as the peer reads them."""
        paths = folder / "train.jsonl", folder / "test.jsonl"
        for path, questions in zip(paths, (self.train, self.test), strict=True):
            path.write_text("".join(question.to_line() for question in questions), encoding="utf-8")
        return paths


def find_folder(given: Path | None) -> Path:
    """The folder given, or that of TRELLIS_SHARED_DATA, or one beside the code. Raises DatasetMissingError."""
    named = os.environ.get("TRELLIS_SHARED_DATA")
    if given is not None:
        places: tuple[Path, ...] = (given,)
    elif named:
        places = (Path(named), Path(named) / "banking77", Path(named) / "data/banking77")
    else:
        places = _PLACES
    for place in places:
        if all((place / name).is_file() for name in ("train.jsonl", "test.jsonl")):
            return place
    raise DatasetMissingError(_MISSING)


def _questions(path: Path) -> tuple[Question, ...]:
    with path.open(encoding="utf-8") as lines:
        turns = (json.loads(line)["messages"] for line in lines)
        return tuple(Question(asked["content"], answer["content"]) for asked, answer in turns)


def _some(questions: Iterable[Question], intents: Sequence[str], each: int | None) -> tuple[Question, ...]:
    chosen, counts = [], Counter[str]()
    for question in questions:
        counts[question.intent] += 1
        if question.intent in intents and (each is None or counts[question.intent] <= each):
            chosen.append(question)
    return tuple(chosen)
