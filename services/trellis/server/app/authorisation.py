"""Who may do what: the role and the tenant that a call asks for."""

from trellis.errors import PermissionDenied, Reason
from trellis.names import tenant_of
from trellis.server.domain.caller import Caller, Role


def require_role(caller: Caller, role: Role) -> None:
    """Raise PermissionDenied unless the caller has the role."""
    if not caller.has_role(role):
        raise _denied(f"This needs the role {role.name}; the key has {caller.role.name}.")


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
