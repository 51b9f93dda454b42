"""Examples as token ids, with the weight that each token has in the loss."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """`ids[i]` is predicted from `ids[:i]` with the weight `weights[i]`; 0 means that it is not trained on.

    `weights[0]` is always 0, for nothing predicts the first token. `cut` says that the example was longer than allowed
    and only its start is here; `total_tokens` is its length before that.
    """

    ids: list[int]
    weights: list[float]
    cut: bool
    total_tokens: int

    @property
    def trainable_tokens(self) -> int:
        """How many tokens have a weight above 0."""
        return len(self.weights) - self.weights.count(0.0)


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A preference: the same prompt followed by the better and by the worse answer; only the answers have weight."""

    chosen: EncodedExample
    rejected: EncodedExample
