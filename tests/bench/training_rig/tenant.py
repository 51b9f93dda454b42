"""Who trains what: the same for every system, as a file that a peer reads or as a job's settings."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

Mix = Literal["same", "mixed"]

_SAME: Final = (8, ())
_MIXED: Final = (
    (8, ()),
    (16, ("q_proj", "v_proj")),
    (4, ("k_proj", "o_proj", "q_proj", "v_proj")),
    (32, ("down_proj", "gate_proj", "up_proj")),
)
"""Ranks and targets that tenants of a mixed crowd take in turn; no targets are all seven linears."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hyperparameters that all tenants and all systems have: AdamW without decay under a straight line to zero, fp32."""

    epochs: int = 3
    batch_size: int = 10
    learning_rate: float = 1e-3
    max_grad_norm: float = 1.0

    def steps(self, lines: int) -> int:
        """Optimizer steps over so many lines."""
        return self.epochs * -(-lines // self.batch_size)


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Of single steps, on all sides: AdamW without decay at a rate that stays as it is."""

    learning_rate: float = 1e-3
    max_grad_norm: float = 1.0


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant's adapter and seed."""

    number: int
    rank: int
    targets: tuple[str, ...]
    """Names of linears; empty for all seven."""

    @property
    def name(self) -> str:
        """As a tenant's id."""
        return f"tenant-{self.number:02}"

    @property
    def alpha(self) -> int:
        """Twice the rank."""
        return 2 * self.rank

    @property
    def seed(self) -> int:
        """Of weights and of the lines' order."""
        return self.number


def draw_tenants(count: int, mix: Mix) -> list[Tenant]:
    """So many tenants, with one kind of adapter or with four kinds in turn."""
    kinds = (_SAME,) if mix == "same" else _MIXED
    return [Tenant(number, *kinds[number % len(kinds)]) for number in range(count)]


@dataclass(frozen=True, slots=True)
class Task:
    """All that a peer needs to tune one tenant's adapter; it imports nothing of Trellis."""

    base: str
    lines: str
    """A file of `{"messages": […]}`."""
    out: str
    """The folder for the adapter, and for `result.json`."""
    rank: int
    alpha: int
    targets: Sequence[str]
    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    max_grad_norm: float
    threads: int

    @classmethod
    def of(cls, tenant: Tenant, recipe: Recipe, base: Path, lines: Path, out: Path, threads: int) -> Self:
        """For one tenant."""
        adapter = {"rank": tenant.rank, "alpha": tenant.alpha, "targets": tenant.targets, "seed": tenant.seed}
        return cls(str(base), str(lines), str(out), **adapter, **asdict(recipe), threads=threads)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """As it is sent."""
        return asdict(self)

    def write(self, file: Path) -> Path:
        """Into a file, which is returned."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self.to_json()))
        return file

    @classmethod
    def read(cls, file: Path) -> Self:
        """What `write` wrote."""
        return cls(**json.loads(file.read_text()))


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came of a task: the training loss of each step, in nats a trained token."""

    losses: Sequence[float]
    seconds: float
    """Of training alone."""

    @property
    def last(self) -> float:
        """The mean of the last few steps' losses, by which two systems' work is compared."""
        some = list(self.losses)[-5:]
        return sum(some) / len(some)

    def to_json(self) -> dict[str, Any]:
        """As it is sent."""
        return asdict(self)
