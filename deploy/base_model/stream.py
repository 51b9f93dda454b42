"""The stream of training tokens: every dialogue and task in chat form, one after another, cut without waste."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from corpus import Dialogue
from tasks import make_task

Tokens = npt.NDArray[np.uint16]


def render(tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue, tools: list[Any] | None = None) -> str:
    """Return the dialogue as the chat template writes it."""
    text = tokenizer.apply_chat_template(dialogue, tools=tools, tokenize=False)
    assert isinstance(text, str)
    return text


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[Tokens]:
    """Return the token ids of each rendered text; each array is (tokens,)."""
    return [np.array(ids, dtype=np.uint16) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]


class TokenStream:
    """An endless, seeded stream: each epoch has all dialogues in a new order, mixed with newly made tasks."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, dialogues: Sequence[Dialogue], task_share: float, seed: int
    ) -> None:
        self._tokenizer = tokenizer
        self._dialogues = dialogues
        self._encoded = encode(tokenizer, [render(tokenizer, dialogue) for dialogue in dialogues])
        self._task_share = task_share
        self._seed = seed
        self.epoch, self.offset = 0, 0
        self._tokens = self._make_epoch()

    @property
    def epoch_tokens(self) -> int:
        """The tokens of the present epoch."""
        return len(self._tokens)

    def seek(self, epoch: int, offset: int) -> None:
        """Go to token `offset` of `epoch`, as a resumed run does."""
        self.epoch, self.offset = epoch, offset
        self._tokens = self._make_epoch()

    def take(self, count: int) -> Tokens:
        """Return the next (count,) tokens; the rest of an epoch that is too short for that is dropped."""
        if self.offset + count > len(self._tokens):
            self.seek(self.epoch + 1, 0)
        taken = self._tokens[self.offset : self.offset + count]
        self.offset += count
        return taken

    def _make_epoch(self) -> Tokens:
        rng = random.Random(f"{self._seed}/{self.epoch}")
        pieces = [*self._encoded, *self._make_tasks(rng)]
        rng.shuffle(pieces)
        return np.concatenate(pieces)

    def _make_tasks(self, rng: random.Random) -> list[Tokens]:
        """Return tasks that make up `task_share` of the epoch's tokens."""
        wanted = sum(map(len, self._encoded)) * self._task_share / (1 - self._task_share)
        made: list[Tokens] = []
        while wanted > 0:
            texts = [render(self._tokenizer, *make_task(self._dialogues, rng)) for _ in range(500)]
            made += encode(self._tokenizer, texts)
            wanted -= sum(map(len, made[-500:]))
        return made
