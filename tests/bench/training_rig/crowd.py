"""Tenants who want an adapter each, with their lines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.training_rig.tenant import Mix, Recipe, Task, Tenant, Tuned, draw_tenants
from tests.bench.training_rig.texts import CountTokens, Lengths, write_lines


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many tenants at once, each with a file of its own."""

    tenants: Sequence[Tenant]
    mix: Mix
    lengths: Lengths
    recipe: Recipe
    files: Sequence[Path]
    lines: int
    """Of each."""
    tokens: int
    """Of all files together; each is read `recipe.epochs` times."""

    @classmethod
    def draw(
        cls, folder: Path, count: int, mix: Mix, lengths: Lengths, lines: int, recipe: Recipe, count_tokens: CountTokens
    ) -> "Crowd":
        """Write the files into `folder`; the same for the same arguments."""
        tenants = draw_tenants(count, mix)
        files = [folder / f"{lengths.name}-{lines}" / f"{tenant.name}.jsonl" for tenant in tenants]
        tokens = [
            write_lines(file, f"{tenant.seed} {lengths.name}", lines, lengths, count_tokens)
            for tenant, file in zip(tenants, files, strict=True)
        ]
        return cls(tenants, mix, lengths, recipe, files, lines, sum(tokens))

    def __str__(self) -> str:
        plural = "" if len(self.tenants) == 1 else "s"
        return f"{len(self.tenants)} tenant{plural}, {self.lines} {self.lengths.name} lines each, {self.mix} adapters"

    def tasks(self, base: Path, out: Path, threads: int) -> list[Task]:
        """What a peer is told of each tenant."""
        pairs = zip(self.tenants, self.files, strict=True)
        return [Task.of(tenant, self.recipe, base, file, out / tenant.name, threads) for tenant, file in pairs]


@dataclass(frozen=True, slots=True)
class Ready:
    """What one system made of a crowd."""

    seconds: float
    """From submit, or from the first process's start, until the last adapter was stored."""
    tuned: Sequence[Tuned]
    trained_tokens: int

    @property
    def rate(self) -> float:
        """Tokens of lines a second, each as often as it was read."""
        return self.trained_tokens / self.seconds

    @property
    def last_loss(self) -> float:
        """The mean of the tenants' last losses, in nats."""
        return sum(one.last for one in self.tuned) / len(self.tuned)


System = Callable[[Crowd], Ready]
"""One way to tune a crowd's adapters."""
EQUAL_WORK = 0.1
"""By so much of itself may the last loss of two systems differ: adapters start from other random numbers."""


def compared(ours: Ready, theirs: Ready) -> str:
    """Whether both learnt as much, as a sentence."""
    apart = abs(ours.last_loss - theirs.last_loss) / theirs.last_loss
    verdict = "equal work" if apart <= EQUAL_WORK else "NOT EQUAL WORK"
    return f"{verdict}: last losses {ours.last_loss:.3f} and {theirs.last_loss:.3f} nats, {apart:.1%} apart"
