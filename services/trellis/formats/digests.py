"""What makes two examples the same example."""

from __future__ import annotations

from trellis.formats.examples import Example


def example_digest(example: Example) -> int:
    """64 bits of the SHA-256 of the example's canonical JSON.

    Weights are left out: the same conversation with another weight must not be trained on and held out at once.
    """
    raise NotImplementedError
