"""The settings of shared trainers that an operator chooses; the same for every base model."""

from dataclasses import dataclass
from typing import Final

_USUAL_PASS_TOKENS: Final = 2048
_USUAL_PASS_TOKENS_ON_GPU: Final = 16384
"""What trainers choose by themselves."""


@dataclass(frozen=True, slots=True)
class TrainerOptions:
    """How big a shared trainer is and how it behaves."""

    cpus: float = 1.0
    """CPUs that each worker of a shared trainer reserves."""
    gpus: float = 0.0
    """GPUs that each worker of a shared trainer reserves."""
    workers: int = 1
    """Processes over which each step of a shared trainer is spread."""
    max_jobs: int = 16
    """Jobs that a shared trainer has at once."""
    max_replicas: int = 1
    """Shared trainers of one base model; a further one is started when the others have no room."""
    idle_seconds: float = 300.0
    """A shared trainer without a job leaves after so long, and at once when others need its capacity."""
    turn_seconds: float = 15.0
    """So long a shared trainer takes jobs while ones that it can't run wait for its capacity."""

    rank_rows: int = 0
    """Rank rows of a shared trainer's bank, as many as all ranks of jobs on all linears; 0 for what its memory allows."""
    pass_tokens: int = 0
    """Tokens that a shared trainer computes in one pass at the most; 0 for 2048 on a CPU and 16384 on a GPU."""

    def environment(self, memory_halvings: int = 0) -> dict[str, str]:
        """What trainers read by themselves, of what was chosen; after so many lacks of memory a pass has fewer tokens."""
        pass_tokens = self.pass_tokens
        if memory_halvings:
            usual = pass_tokens or (_USUAL_PASS_TOKENS_ON_GPU if self.gpus else _USUAL_PASS_TOKENS)
            pass_tokens = max(1, usual >> memory_halvings)
        chosen = {"TRELLIS_TRAINER_RANK_ROWS": self.rank_rows, "TRELLIS_TRAINER_PASS_TOKENS": pass_tokens}
        return {name: str(value) for name, value in chosen.items() if value}

    def __post_init__(self) -> None:
        """Raises ValueError for what can't be."""
        for name in ("workers", "max_jobs", "max_replicas"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.cpus == self.gpus == 0:
            raise ValueError("cpus and gpus can't both be 0.")
