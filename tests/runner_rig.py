"""Drives a runner by hand: a few sequences, their prompts in chunks, greedy answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trellis.engine.batch import Piece
from trellis.engine.runner import Runner


@dataclass
class Course:
    """One sequence on its way."""

    prompt_ids: Sequence[int]
    blocks: Sequence[int]
    slot: int | None = None
    answer_ids: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    position: int = 0

    @property
    def token_ids(self) -> list[int]:
        """The prompt and what has been answered."""
        return [*self.prompt_ids, *self.answer_ids]

    def piece(self, chunk: int) -> Piece:
        """The next chunk of the prompt, or the last token."""
        ahead = self.token_ids[self.position : self.position + chunk]
        last = self.position + len(ahead) == len(self.token_ids)
        return Piece(ahead, self.position, self.blocks, self.slot, wants_logits=last)


def courses_of(
    runner: Runner, prompts: Sequence[Sequence[int]], slots: Sequence[int | None], length: int
) -> list[Course]:
    """Sequences with scattered blocks for `length` tokens each."""
    each = -(-length // runner.cache.block_tokens)
    scattered = torch.randperm(each * len(prompts), generator=torch.Generator().manual_seed(1)).tolist()
    return [
        Course(prompt, scattered[index * each : (index + 1) * each], slot)
        for index, (prompt, slot) in enumerate(zip(prompts, slots, strict=True))
    ]


def run_greedily(runner: Runner, courses: Sequence[Course], *, answers: int, chunk: int) -> None:
    """Run all of them side by side until each has `answers` tokens."""
    while waiting := [course for course in courses if len(course.answer_ids) < answers]:
        pieces = [course.piece(chunk) for course in waiting]
        rows = iter(runner.step(pieces))
        for course, piece in zip(waiting, pieces, strict=True):
            course.position += len(piece.token_ids)
            if piece.wants_logits:
                course.logits.append(next(rows).clone())
                course.answer_ids.append(int(course.logits[-1].argmax()))
