"""From a job's spec and files to its items and its objective, whatever its method."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from trellis.errors import Reason
from trellis.formats import Example, TextExample, choose_held_out, example_digest
from trellis.objects import ObjectStore
from trellis.spec import Method, TrainSpec
from trellis.tokens import ChatTokenizer
from trellis.v1.worker_pb2 import StartAttemptResponse
from trellis_jobs.batches import Plan
from trellis_jobs.examples import Examples
from trellis_jobs.failure import JobFailedError
from trellis_jobs.methods.files import DatasetFile
from trellis_jobs.methods.items import EncodedItem, SequenceItems
from trellis_jobs.methods.objective import Objective
from trellis_jobs.methods.preference import DirectPreference, OddsRatio, encode_preference
from trellis_jobs.methods.pretraining import encode_text
from trellis_jobs.methods.supervised import TokenMean, encode_supervised

_Encode = Callable[[Example, ChatTokenizer, int], list[EncodedItem]]


@dataclass(frozen=True, slots=True)
class Data:
    """What a job learns from and is measured by; `warnings` are sentences for its user."""

    train: SequenceItems
    """The training lines' items, and after them those of the replay file."""
    held_out: SequenceItems
    answers: Examples
    """The held-out lines that can be answered: all of supervised tuning, none of the other methods."""
    replay_count: int
    """How many of `train`, its last ones, are from the replay file."""
    warnings: tuple[str, ...]

    @property
    def told(self) -> str:
        """How many lines there are, as a sentence."""
        count, held_out = len(self.train) - self.replay_count, len(self.held_out)
        trained = "1 line" if count == 1 else f"{count} lines"
        kept = {0: "none is held out, so that nothing is evaluated", 1: "1 is held out"}.get(
            held_out, f"{held_out} are held out"
        )
        replayed = f"; {self.replay_count} of the replay dataset are mixed in" if self.replay_count else ""
        return f"Training on {trained}; {kept}{replayed}."

    def plan(self, spec: TrainSpec) -> Plan:
        """Which items each step learns from."""
        return Plan.of(spec, len(self.train) - self.replay_count, self.replay_count)


def objective_of(spec: TrainSpec) -> Objective:
    """What the job's method minimises."""
    if spec.method != "preference":
        return TokenMean()
    chosen = spec.preference
    if chosen.loss == "orpo":
        return OddsRatio(chosen.beta)
    return DirectPreference(chosen.beta, chosen.label_smoothing, chosen.reference_free)


def read_items(store: ObjectStore, spec: TrainSpec, work: StartAttemptResponse, tokenizer: ChatTokenizer) -> Data:
    """Read and encode the job's files. Raises FormatError, TokensError and JobFailedError."""
    reader = _Reader(store, spec, tokenizer)
    read = reader.read("training", work.training_key, spec.training_sha256, spec.training_format)
    warnings = list(read.warnings)
    if work.validation_key:
        checked = reader.read("validation", work.validation_key, spec.validation_sha256, spec.validation_format)
        warnings += checked.warnings
        train, held = read, checked
    else:
        train, held = _split(read, spec)
    if not len(train.items):
        message = f"No line has a token to train on within context_length ({spec.context_length} tokens)."
        raise JobFailedError(Reason.DATASET_INVALID, message)
    replay_count = 0
    if work.replay_key:
        replayed = reader.read("replay", work.replay_key, spec.replay_sha256, spec.replay_format)
        warnings += replayed.warnings
        replay_count = _replay(train, replayed, held)
    answers = held.items.sequences if spec.method == "supervised" else Examples()
    return Data(train.items, held.items, answers, replay_count, tuple(warnings))


@dataclass(slots=True)
class _Read:
    """A file's items, and the digest of the line that each is of."""

    items: SequenceItems
    digests: array[int] = field(default_factory=lambda: array("Q"))
    warnings: tuple[str, ...] = ()

    def selected(self, indexes: list[int]) -> _Read:
        return _Read(self.items.selected(indexes), array("Q", (self.digests[index] for index in indexes)))


@dataclass(frozen=True, slots=True)
class _Reader:
    store: ObjectStore
    spec: TrainSpec
    tokenizer: ChatTokenizer

    def read(self, which: str, key: str, sha256: str, file_format: str) -> _Read:
        read, tally = _Read(SequenceItems(2 if self.spec.method == "preference" else 1)), _Tally(which, self.spec)
        sign = -1 if which == "replay" else 1
        for line, example in DatasetFile(self.store, key, sha256, file_format).read():
            encode = self._encoder(example, replayed=which == "replay")
            items = encode(example, self.tokenizer, self.spec.context_length)
            learnable = [item for item in items if item.learnable]
            tally.add(items, learnable)
            for item in learnable:
                read.items.add(sign * line, item)
                read.digests.append(example_digest(example))
        read.warnings = tuple(tally.warnings())
        return read

    def _encoder(self, example: Example, *, replayed: bool) -> _Encode:
        """What is mixed into pre-training need not be text: chat lines are learnt there as in supervised tuning."""
        if replayed and self.spec.method == "pretraining" and not isinstance(example, TextExample):
            return encode_supervised
        return _ENCODERS[self.spec.method]


_ENCODERS: Final[Mapping[Method, _Encode]] = {
    "supervised": encode_supervised,
    "preference": encode_preference,
    "pretraining": encode_text,
}


@dataclass(slots=True)
class _Tally:
    """What is to be told of a file's lines."""

    which: str
    spec: TrainSpec
    cut: int = 0
    empty: int = 0
    split: int = 0

    def add(self, items: list[EncodedItem], learnable: list[EncodedItem]) -> None:
        self.cut += any(item.cut for item in items)
        self.empty += not learnable
        self.split += len(items) > 1

    def warnings(self) -> Iterator[str]:
        length = self.spec.context_length
        if self.cut:
            yield f"{self.cut} {self.which} lines are longer than {length} tokens and were cut."
        if self.split:
            yield f"{self.split} {self.which} lines are longer than {length} tokens and were split into pieces."
        if self.empty:
            yield f"{self.empty} {self.which} lines have no token to train on and were left out."


def _split(read: _Read, spec: TrainSpec) -> tuple[_Read, _Read]:
    """The lines to train on and those held out; all items of a line are on the same side."""
    rule = choose_held_out(read.digests, spec.held_out_fraction, spec.seed)
    held = [rule.holds(digest) for digest in read.digests]
    train = read.selected([index for index, out in enumerate(held) if not out])
    return train, read.selected([index for index, out in enumerate(held) if out])


def _replay(train: _Read, replayed: _Read, held_out: _Read) -> int:
    """Append the replay file's items, but for lines that are held out; how many they are."""
    tested = set(held_out.digests)
    kept = [index for index, digest in enumerate(replayed.digests) if digest not in tested]
    if not kept:
        message = "No line of the replay dataset can be learnt from: all are empty, cut to nothing, or held out."
        raise JobFailedError(Reason.DATASET_INVALID, message)
    train.items.extend(replayed.items.selected(kept))
    return len(kept)
