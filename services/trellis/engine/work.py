"""One answer's tokens, as the scheduler sees them."""

from dataclasses import dataclass
from typing import Self

from trellis.engine.blocks import BlockTable, PrefixOwner
from trellis.engine.request import AdapterRef


@dataclass(slots=True, eq=False)
class Work:
    """Tokens that are there, how many of them are computed, and whose account they are on."""

    token_ids: list[int]
    """The prompt's, then the answer's."""
    prompt_tokens: int
    max_tokens: int
    """The answer's, at most."""
    tenant: str = ""
    weight: float = 1.0
    adapter: AdapterRef | None = None
    leader: Self | None = None
    """Another answer to the same prompt, whose computed prompt this one waits for."""
    computed: int = 0
    """Tokens whose keys and values are in the cache."""
    cached: int = 0
    """Of those, the ones that others had computed before it began."""
    table: BlockTable | None = None
    """Its blocks, while it runs."""
    slot: int | None = None
    """Its adapter's place in the bank, while it runs and is not parked."""
    passed_at: float | None = None
    """When, by the tokens served, the first one went past it because its adapter was not resident."""

    @property
    def owner(self) -> PrefixOwner:
        """Whose prefix its keys and values are."""
        return PrefixOwner(self.tenant, self.digest)

    @property
    def digest(self) -> str:
        """Its adapter's; empty for the base alone."""
        return "" if self.adapter is None else self.adapter.digest

    @property
    def is_parked(self) -> bool:
        """Whether it runs, but its adapter has no slot at the moment."""
        return self.table is not None and self.adapter is not None and self.slot is None

    @property
    def answer_tokens(self) -> int:
        """The answer's tokens so far."""
        return len(self.token_ids) - self.prompt_tokens

    @property
    def pending(self) -> int:
        """Tokens that are still to be computed before the next one can be chosen."""
        return len(self.token_ids) - self.computed

    @property
    def most_tokens(self) -> int:
        """The most that will ever be in the cache: the answer's last token is never computed."""
        return self.prompt_tokens + self.max_tokens - 1

    @property
    def left(self) -> int:
        """Tokens that it may still take, its prompt's and its answer's."""
        return self.prompt_tokens + self.max_tokens - self.computed

    @property
    def leader_is_ready(self) -> bool:
        """Whether there is nothing left to wait for before the prompt's blocks can be shared."""
        return self.leader is None or self.leader.computed >= self.prompt_tokens
