"""From a dataset version's file to encoded lines, those to train on and those held out."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from typing import cast

from trellis.errors import Reason
from trellis.formats import (
    HEAD_BYTES,
    Example,
    FileFormat,
    HeldOut,
    PreferenceExample,
    choose_held_out,
    detect_format,
    example_digest,
    read_examples,
)
from trellis.objects import ObjectStore
from trellis.spec import TrainSpec
from trellis.tokens import ChatTokenizer, EncodedExample
from trellis_jobs.examples import Examples
from trellis_jobs.failure import JobFailedError


@dataclass(frozen=True, slots=True)
class Data:
    """The lines of a job; `warnings` are sentences for its user."""

    train: Examples
    held_out: Examples
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _Encoded:
    examples: Examples = field(default_factory=Examples)
    digests: array[int] = field(default_factory=lambda: array("Q"))
    cut: int = 0
    empty: int = 0


@dataclass(frozen=True, slots=True)
class _File:
    """A dataset version's file; `file_format` is a value of FileFormat, empty where the bytes are to tell."""

    store: ObjectStore
    key: str
    sha256: str
    file_format: str

    def read(self) -> Iterator[tuple[int, Example]]:
        with self.store.open_read(self.key) as stream:
            if self.sha256 and hashlib.file_digest(cast(BufferedReader, stream), "sha256").hexdigest() != self.sha256:
                message = f"The dataset's bytes in the object store are not the uploaded ones (sha256 {self.sha256})."
                raise JobFailedError(Reason.CHECKSUM_MISMATCH, message)
            stream.seek(0)
            file_format = self._format(stream.read(HEAD_BYTES))
            stream.seek(0)
            yield from read_examples(stream, file_format)

    def _format(self, head: bytes) -> FileFormat:
        if self.file_format:
            return FileFormat(self.file_format)
        return detect_format(self.key.rsplit("/", 1)[-1], head)


def read_data(
    store: ObjectStore, spec: TrainSpec, training_key: str, validation_key: str, tokenizer: ChatTokenizer
) -> Data:
    """Read and encode the job's files. Raises FormatError, TokensError and JobFailedError."""
    training = _File(store, training_key, spec.training_sha256, spec.training_format)
    whole = _encode(training, tokenizer, spec.context_length)
    warnings = list(_warnings(whole, "training", spec.context_length))
    if validation_key:
        train = whole.examples
        validation = _File(store, validation_key, spec.validation_sha256, spec.validation_format)
        checked = _encode(validation, tokenizer, spec.context_length)
        held_out = checked.examples
        warnings += _warnings(checked, "validation", spec.context_length)
    else:
        train, held_out = _split(whole, choose_held_out(whole.digests, spec.held_out_fraction, spec.seed))
    if not len(train):
        message = f"No line has a token to train on within context_length ({spec.context_length} tokens)."
        raise JobFailedError(Reason.DATASET_INVALID, message)
    return Data(train, held_out, tuple(warnings))


def _encode(file: _File, tokenizer: ChatTokenizer, context_length: int) -> _Encoded:
    encoded = _Encoded()
    for line, example in file.read():
        tokens = _encode_one(example, tokenizer, context_length)
        encoded.cut += tokens.cut
        if not tokens.trainable_tokens:
            encoded.empty += 1
            continue
        encoded.examples.add(line, tokens)
        encoded.digests.append(example_digest(example))
    return encoded


def _encode_one(example: Example, tokenizer: ChatTokenizer, context_length: int) -> EncodedExample:
    if isinstance(example, PreferenceExample):
        message = "The lines are preferences, which supervised tuning can't learn from; give messages or completions."
        raise JobFailedError(Reason.DATASET_INVALID, message)
    return tokenizer.encode_example(example, context_length)


def _split(encoded: _Encoded, rule: HeldOut) -> tuple[Examples, Examples]:
    held = [rule.holds(digest) for digest in encoded.digests]
    train = encoded.examples.selected([index for index, out in enumerate(held) if not out])
    return train, encoded.examples.selected([index for index, out in enumerate(held) if out])


def _warnings(encoded: _Encoded, which: str, context_length: int) -> Iterator[str]:
    if encoded.cut:
        yield f"{encoded.cut} {which} lines are longer than {context_length} tokens and were cut."
    if encoded.empty:
        yield f"{encoded.empty} {which} lines have no token to train on and were left out."
