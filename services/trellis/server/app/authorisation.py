"""Who may do what: the role and the tenant that a call asks for."""

from trellis.errors import PermissionDenied, Reason
from trellis.names import tenant_of
from trellis.server.domain.caller import Caller, Role, Scope


def require_role(caller: Caller, role: Role) -> None:
    """Raise PermissionDenied unless the caller has the role."""
    if not caller.has_role(role):
        raise _denied(f"This needs the role {role.name}; the key has {caller.role.name}.")


def require_token(caller: Caller) -> None:
    """Raise PermissionDenied for a process that calls with its ticket."""
    if caller.by_ticket:
        raise _denied("A ticket opens a process's first call alone; use the token of its answer.")


def require_scope(caller: Caller, scope: Scope) -> None:
    """Raise PermissionDenied unless the caller's key reaches the scope."""
    if not caller.has_scope(scope):
        has = " and ".join(sorted(each.name for each in caller.scopes))
        raise _denied(f"This needs the scope {scope.name}; the key is narrowed to {has}.")


def require_cover(caller: Caller, role: Role, scopes: frozenset[Scope]) -> None:
    """Raise PermissionDenied unless the caller may do all that a key of this role and these scopes may."""
    require_role(caller, role)
    if not caller.covers(role, scopes):
        has = " and ".join(sorted(each.name for each in caller.scopes))
        wanted = " and ".join(sorted(each.name for each in scopes)) or "no scope at all"
        raise _denied(f"The caller is narrowed to {has}, and has no hold on a key of {wanted}: that opens more.")


def require_tenant(caller: Caller, tenant: str | None) -> None:
    """Raise PermissionDenied unless the caller may touch what belongs to `tenant` (None: to the platform)."""
    if not caller.may_touch(tenant):
        # One answer, whether or not there is such a thing.
        raise _denied("The key opens its own tenant's resources only.")


def require_names(caller: Caller, *names: str) -> None:
    """Raise PermissionDenied if any of the names is one of a tenant that the caller may not touch."""
    for name in names:
        tenant = tenant_of(name)
        if tenant is not None:
            require_tenant(caller, tenant)


def _denied(message: str) -> PermissionDenied:
    return PermissionDenied(Reason.ACCESS_DENIED, message)
