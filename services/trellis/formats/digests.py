"""What makes two examples the same example, and a set of very many of them."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator
from typing import Any

from trellis.formats.examples import ChatExample, CompletionExample, Example, Message, PreferenceExample, kind_of


def example_digest(example: Example) -> int:
    """64 bits of the SHA-256 of the example's canonical JSON.

    Weights are left out: the same conversation with another weight must not be trained on and held out at once.
    """
    canonical = json.dumps(
        [kind_of(example), *_content(example)], ensure_ascii=False, separators=(",", ":"), sort_keys=True
    )
    return int.from_bytes(hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _content(example: Example) -> list[Any]:
    match example:
        case ChatExample():
            return [_turns(example.messages), example.tools]
        case PreferenceExample():
            return [_turns(example.messages), example.tools, _turns((example.preferred, example.non_preferred))]
        case CompletionExample():
            return [example.prompt, example.completion]
        case _:
            return [example.text]


def _turns(messages: tuple[Message, ...]) -> list[list[Any]]:
    return [[turn.role, turn.content, turn.name, turn.tool_calls, turn.tool_call_id] for turn in messages]


class DigestSet:
    """A set of 64-bit digests in 16 bytes or so each, a tenth of what Python's own set needs."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))  # 0 is an empty slot
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return (digest for digest in self._slots if digest)

    def add(self, digest: int) -> bool:
        """Put a digest in; whether it is new; 0 and 1 are one digest here, which happens to nobody."""
        digest = digest or 1
        if 2 * (self._count + 1) > len(self._slots):
            self._grow()
        index = self._slot_of(digest)
        if self._slots[index] == digest:
            return False
        self._slots[index] = digest
        self._count += 1
        return True

    def _slot_of(self, digest: int) -> int:
        slots, mask = self._slots, len(self._slots) - 1
        index = digest & mask
        while slots[index] and slots[index] != digest:
            index = (index + 1) & mask
        return index

    def _grow(self) -> None:
        old, self._slots = self._slots, array("Q", bytes(8 * 2 * len(self._slots)))
        for digest in old:
            if digest:
                self._slots[self._slot_of(digest)] = digest
