"""Who calls: roles, API keys, and what each may touch."""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum


class Role(IntEnum):
    """The API's roles; MEMBER, TENANT_ADMIN and ADMIN are ordered, ATTEMPT and TRAINER stand outside."""

    MEMBER = 1
    TENANT_ADMIN = 2
    ADMIN = 3
    ATTEMPT = 4
    TRAINER = 5


class Scope(IntEnum):
    """What a key may be narrowed to; the API's numbers."""

    READ = 1
    WRITE = 2
    GENERATE = 3
    MANAGE = 4


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key; of its secret only a hash is kept."""

    key_id: str
    tenant: str | None
    """None for an admin's key."""
    role: Role
    display_name: str
    prefix: str
    secret_hash: str
    """sha256 of the secret, in hex: the secret is 256 random bits, so that no slow hash is needed."""
    create_time: datetime
    expire_time: datetime | None = None
    revoke_time: datetime | None = None
    scopes: frozenset[Scope] = frozenset()
    """What it is narrowed to; all that its role may when empty."""
    rotate_time: datetime | None = None
    """When its secret was last exchanged."""
    old_secret_hash: str | None = None
    """Of the secret before, until old_secret_expire_time."""
    old_secret_expire_time: datetime | None = None
    last_use_time: datetime | None = None
    """To within some minutes."""

    @property
    def name(self) -> str:
        """The resource name."""
        return f"{f'tenants/{self.tenant}' if self.tenant else 'platform'}/apiKeys/{self.key_id}"


@dataclass(frozen=True, slots=True)
class AttemptRef:
    """One attempt of one job."""

    tenant: str
    job_uid: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call."""

    role: Role
    tenant: str | None
    """None for admins."""
    key_id: str
    attempt: AttemptRef | None = None
    trainer_uid: str = ""
    """Of a shared trainer."""
    scopes: frozenset[Scope] = frozenset()
    """What the key or token is narrowed to; all that the role may when empty."""
    by_ticket: bool = False
    """Whether it is a process that has not begun yet, and may make its first call alone."""
    principal: str = ""
    """As the audit trail names it: a key's resource name, or `oidc:{issuer}#{subject}`."""

    def has_role(self, role: Role) -> bool:
        """Whether the caller may do what asks for `role`."""
        if not {self.role, role}.isdisjoint({Role.ATTEMPT, Role.TRAINER}):
            return self.role == role
        return self.role >= role

    def has_scope(self, scope: Scope) -> bool:
        """Whether the caller's key or token, if it is narrowed at all, reaches `scope`."""
        return not self.scopes or scope in self.scopes

    def covers(self, role: Role, scopes: frozenset[Scope]) -> bool:
        """Whether the caller may do all that a key of this role and these scopes may."""
        return self.has_role(role) and (not self.scopes or (bool(scopes) and scopes <= self.scopes))

    def may_touch(self, tenant: str | None) -> bool:
        """Whether the caller may touch what belongs to `tenant` (None: to the platform)."""
        return self.role == Role.ADMIN or (tenant is not None and tenant == self.tenant)
