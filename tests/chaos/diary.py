"""What the clients were told: whatever was acknowledged must be there at the end."""

from collections import Counter
from dataclasses import dataclass, field

from trellis.client.types import JobEvent
from trellis.errors import Reason, TrellisError

_PASSING = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED"})
"""Statuses with which a fault may show itself to a client whose retries are used up."""
_LAWFUL = frozenset({Reason.ENGINE_BUSY, Reason.ADAPTER_NOT_DEPLOYED, Reason.INVALID_STATE, Reason.QUOTA_EXCEEDED})
"""Reasons that the load itself brings about."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A version that was acknowledged."""

    tenant: str
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """A call of a model that was answered to its end, greedily."""

    tenant: str
    model: str
    prompt: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    digest: str


@dataclass
class Submitted:
    """A job; its name is empty while nobody acknowledged it."""

    tenant: str
    title: str
    """Its display name, which no other job has."""
    recipe: str
    name: str = ""
    cancelled: bool = False
    """Somebody asked for it, whether or not that was acknowledged."""
    events: list[JobEvent] = field(default_factory=list)
    """What was watched."""


@dataclass
class Diary:
    """All that was asked for, with what came of it."""

    uploads: list[Uploaded] = field(default_factory=list)
    jobs: list[Submitted] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    tenants: dict[str, bool] = field(default_factory=dict)
    """By id, whether their making was acknowledged."""
    aliases: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """By tenant and alias, the adapter that it was last pointed at; None when that is in doubt."""
    told: Counter[str] = field(default_factory=Counter)
    """How often which act ended how."""
    unexplained: list[str] = field(default_factory=list)
    """Errors that neither a fault nor the load explains."""

    def heard(self, act: str, error: TrellisError) -> None:
        """Write down that an act failed."""
        self.told[f"{act}: {error.reason}"] += 1
        if error.STATUS not in _PASSING and error.reason not in _LAWFUL:
            self.unexplained.append(f"{act}: {error.STATUS} {error.reason}: {error}")

    def done(self, act: str) -> None:
        """Write down that an act was acknowledged."""
        self.told[f"{act}: done"] += 1
