"""Greedy answers to held-out prompts, compared with the expected ones.

Shapes: B questions, T positions, V vocabulary.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import DynamicCache

from trellis.tokens import ChatTokenizer
from trellis_jobs.device import Device
from trellis_jobs.examples import Examples

_SPARE_TOKENS: Final = 4
"""An answer may be tokenised otherwise than the expected one, and so be longer, and yet be the same text."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt's ids, the text that should follow, and how many tokens the answer may have."""

    prompt: list[int]
    expected: str
    max_new_tokens: int

    @property
    def room(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + self.max_new_tokens


def questions(examples: Examples, tokenizer: ChatTokenizer, limit: int) -> list[Question]:
    """The last assistant turns, or completions, of the first `limit` lines that have a prompt and a whole answer."""
    found: list[Question] = []
    for index in range(len(examples)):
        start = examples.answer_start(index)
        if len(found) == limit:
            break
        if start < 2 or not examples.whole[index]:
            continue
        ids = examples.ids(index)
        expected = _text(tokenizer, ids[start:])
        found.append(Question(ids[:start], expected, len(ids) - start + _SPARE_TOKENS))
    return found


class Answerer:
    """Answers questions in batches, token by token with a key-value cache."""

    def __init__(self, model: Any, tokenizer: ChatTokenizer, device: Device, check: Callable[[], None]) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._device = device
        self._check = check
        self._eos = torch.tensor(sorted(tokenizer.eos_ids), device=device.target)

    def count_exact(self, batch: Sequence[Question]) -> int:
        """How many of the batch's answers are the expected ones, but for white space around them."""
        return self.exact(batch, self._generate(batch))

    def exact(self, batch: Sequence[Question], answers: Sequence[Sequence[int]]) -> int:
        """How many of these answers to the batch are the expected ones, but for white space around them."""
        texts = (_text(self._tokenizer, ids) for ids in answers)
        return sum(text == question.expected for text, question in zip(texts, batch, strict=True))

    def tokens(self, batch: Sequence[Question]) -> Generator[None, None, list[list[int]]]:
        """Answer the batch, one token of each answer a turn; the answers' ids.

        The model is called between turns only, so that others may have it meanwhile.
        """
        ids_BT, mask_BT = self._padded([question.prompt for question in batch])
        limits_B = torch.tensor([question.max_new_tokens for question in batch], device=self._device.target)
        positions_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
        cache, columns = DynamicCache(), []
        ended_B = torch.zeros(len(batch), dtype=torch.bool, device=self._device.target)
        for number in range(int(limits_B.max())):
            self._check()
            ids_BT = self._next(ids_BT, mask_BT, positions_BT, cache)
            columns.append(torch.where(ended_B, self._tokenizer.pad_id, ids_BT[:, 0]))
            ended_B = ended_B | torch.isin(ids_BT[:, 0], self._eos) | (limits_B <= number + 1)
            if bool(ended_B.all()):
                break
            mask_BT = torch.cat([mask_BT, torch.ones_like(ids_BT)], dim=1)
            positions_BT = positions_BT[:, -1:] + 1
            yield
        return [self._until_end(row) for row in torch.stack(columns, dim=1).tolist()]

    def _generate(self, batch: Sequence[Question]) -> list[list[int]]:
        turns = self.tokens(batch)
        while True:
            try:
                next(turns)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]

    def _next(self, ids_BT: Any, mask_BT: Any, positions_BT: Any, cache: DynamicCache) -> torch.Tensor:
        with self._device.autocast:
            out = self._model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=positions_BT,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return out.logits[:, -1].argmax(-1, keepdim=True)  # type: ignore[no-any-return]

    def _padded(self, prompts: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts padded on the left, so that all of them end in the last column."""
        length = max(map(len, prompts))
        ids_BT = torch.full((len(prompts), length), self._tokenizer.pad_id, dtype=torch.long)
        mask_BT = torch.zeros(len(prompts), length, dtype=torch.long)
        for number, prompt in enumerate(prompts):
            ids_BT[number, length - len(prompt) :] = torch.tensor(prompt)
            mask_BT[number, length - len(prompt) :] = 1
        return ids_BT.to(self._device.target), mask_BT.to(self._device.target)

    def _until_end(self, ids: list[int]) -> list[int]:
        end = next((at for at, token in enumerate(ids) if token in self._tokenizer.eos_ids), len(ids))
        return ids[:end]


def _text(tokenizer: ChatTokenizer, ids: Sequence[int]) -> str:
    while ids and ids[-1] in tokenizer.eos_ids:
        ids = ids[:-1]
    return tokenizer.decode(ids, skip_special_tokens=False).strip()
