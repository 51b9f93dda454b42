"""Who an identity provider says that somebody is, as a Protocol; `bootstrap` says what is behind it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from trellis.server.domain.caller import Role, Scope


@dataclass(frozen=True, slots=True)
class Identity:
    """What a token that was verified says."""

    principal: str
    """`oidc:{issuer}#{subject}`."""
    role: Role
    tenant: str | None
    """None for admins; whether there is such a tenant was not looked at."""
    scopes: frozenset[Scope]


class TokenVerifier(Protocol):
    """Verifies bearer tokens."""

    async def verify(self, token: str, now: datetime) -> Identity:
        """Who sends the token; raises Unauthenticated, or Unavailable where the issuer's keys can't be had."""
        ...
