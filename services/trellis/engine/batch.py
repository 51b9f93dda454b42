"""What one step of the engine shows the model."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Piece:
    """One sequence's share of a step: a chunk of its prompt, or its last token."""

    token_ids: Sequence[int]
    """To be run now; at least one."""
    position: int
    """Tokens of the sequence that are in the KV cache already."""
    blocks: Sequence[int]
    """Its block table; covers `position + len(token_ids)` tokens."""
    slot: int | None
    """Of the adapter bank; None for the base alone."""
    wants_logits: bool
    """Whether the logits after the last of the tokens are wanted."""
