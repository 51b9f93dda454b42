"""An adapter's weights as PEFT stores them."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LoraPair:
    """What an adapter adds at one linear: `scaling * B A x`, A of shape (rank, in), B of shape (out, rank)."""

    a_RI: Tensor
    b_OR: Tensor
    scaling: float

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.a_RI.shape[0]


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """An adapter's weights, by the path of the linear that they belong to."""

    digest: str
    pairs: Mapping[str, LoraPair]

    @property
    def rank(self) -> int:
        """The largest of its modules."""
        return max(pair.rank for pair in self.pairs.values())

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(pair.a_RI.nbytes + pair.b_OR.nbytes for pair in self.pairs.values())
