"""What each method asks of its caller, read from the API's own annotations."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from trellis.errors import InvalidArgument, Reason
from trellis.names import ALL_TENANTS, PLATFORM, tenant_of
from trellis.server.app.authorisation import require_role, require_scope, require_tenant, require_token
from trellis.server.domain.caller import Caller, Role, Scope
from trellis.v1 import access_pb2

_PROCESSES = frozenset({access_pb2.ROLE_ATTEMPT, access_pb2.ROLE_TRAINER})
_BASE_MODELS = "baseModels/"


class MissingAccessError(RuntimeError):
    """A method does not say who may call it."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a method asks of its caller."""

    role: Role
    tenant_field: tuple[str, ...]
    platform_names_allowed: bool
    scope: Scope | None = None
    """What a narrowed key needs; None for methods of attempts and trainers, who have no scopes."""
    shared_allowed: bool = False
    """Whether the name may also be one that another tenant shares: then the check of the share decides."""

    ticket_allowed: bool = False
    """Whether a process's ticket opens the method."""

    def name_in(self, request: Message) -> str | None:
        """The name that says which tenant is touched; None for methods that touch none."""
        if not self.tenant_field:
            return None
        value: object = request
        for part in self.tenant_field:
            value = getattr(value, part)
        return str(value)

    def asks_for_share(self, caller: Caller, name: str) -> bool:
        """Whether the name is another tenant's, and the method one that such names may come through to."""
        tenant = tenant_of(name)
        return self.shared_allowed and tenant is not None and not caller.may_touch(tenant)

    def check_role(self, caller: Caller) -> None:
        """Raise PermissionDenied unless the caller has the role and reaches the scope."""
        require_role(caller, self.role)
        if not self.ticket_allowed:
            require_token(caller)
        if self.scope is not None:
            require_scope(caller, self.scope)

    def check_tenant(self, caller: Caller, request: Message) -> None:
        """Raise PermissionDenied unless the caller may touch what the request names.

        Whatever names no tenant goes no further, but for admins, and for base models where those may be named.
        """
        name = self.name_in(request)
        if name is None or caller.role is Role.ADMIN:
            return
        tenant = tenant_of(name)
        if tenant is not None or name in {ALL_TENANTS, PLATFORM} or name.startswith(f"{PLATFORM}/"):
            require_tenant(caller, tenant)
        elif not (self.platform_names_allowed and name.startswith(_BASE_MODELS)):
            field = ".".join(self.tenant_field)
            message = f"{name[:200]!r} is not a name that this method takes; it must begin with 'tenants/…'."
            raise InvalidArgument.for_field(field, message, reason=Reason.INVALID_NAME)


def read_access(services: Iterable[ServiceDescriptor]) -> Mapping[str, Access]:
    """By full method path, such as `/trellis.v1.TenantService/GetTenant`; raises MissingAccessError."""
    found = {}
    for service in services:
        for method in service.methods:
            options = method.GetOptions()
            if not options.HasExtension(access_pb2.access):
                raise MissingAccessError(f"{method.full_name} has no option (trellis.v1.access).")
            found[f"/{service.full_name}/{method.name}"] = _read(
                method.full_name, options.Extensions[access_pb2.access]
            )
    return found


def _read(method: str, option: access_pb2.Access) -> Access:
    if option.role == access_pb2.ROLE_UNSPECIFIED:
        raise MissingAccessError(f"{method} names no role in its option (trellis.v1.access).")
    if (option.role in _PROCESSES) != (option.scope == access_pb2.SCOPE_UNSPECIFIED):
        raise MissingAccessError(f"{method} must name a scope if callers with keys may call it, and else none.")
    scope = Scope(option.scope) if option.scope else None
    fields = tuple(option.tenant_field.split(".")) if option.tenant_field else ()
    return Access(
        Role(option.role), fields, option.platform_names_allowed, scope, option.shared_allowed, option.ticket_allowed
    )
