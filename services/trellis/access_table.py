"""Who comes in where: the answer for every method, caller and name, computed from the annotations of the API.

It is written from the annotations' meaning and shares no code with the server that enforces them, so that each can be
held against the other.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

import trellis.v1
from trellis.v1 import access_pb2

ENGINES_OWN = frozenset({"trellis.v1.EngineService"})
"""Answered by engines and not by the server; they know a secret of their own and no keys."""


class CallerKind(Enum):
    """Who calls."""

    NOBODY = "no key"
    MEMBER = "member"
    TENANT_ADMIN = "tenant admin"
    ADMIN = "admin"
    ATTEMPT = "attempt"
    TRAINER = "trainer"


class Named(Enum):
    """Whose the name is by which a request says what it touches."""

    NOTHING = "the method touches no tenant"
    OWN = "the caller's own tenant"
    OTHER = "another tenant"
    PLATFORM = "the platform"
    BASE_MODEL = "a base model"
    NO_NAME = "no name at all"


class Outcome(Enum):
    """What the caller hears; the value is its sign in the table."""

    LET_IN = "✓"
    """Authorised: what the method itself then answers."""
    IF_SHARED = "s"
    """PERMISSION_DENIED, unless the other tenant shares what is named."""
    UNAUTHENTICATED = "?"
    PERMISSION_DENIED = "✗"
    INVALID_ARGUMENT = "!"


_RANKS = {
    CallerKind.MEMBER: access_pb2.ROLE_MEMBER,
    CallerKind.TENANT_ADMIN: access_pb2.ROLE_TENANT_ADMIN,
    CallerKind.ADMIN: access_pb2.ROLE_ADMIN,
}
_PROCESSES = {CallerKind.ATTEMPT: access_pb2.ROLE_ATTEMPT, CallerKind.TRAINER: access_pb2.ROLE_TRAINER}
_IN_TENANTS = (Named.OWN, Named.OTHER, Named.PLATFORM, Named.BASE_MODEL, Named.NO_NAME)


@dataclass(frozen=True, slots=True)
class Method:
    """A method and what it asks of its caller."""

    descriptor: MethodDescriptor
    access: access_pb2.Access

    @property
    def service(self) -> str:
        """The service's whole name."""
        return str(self.descriptor.full_name).rpartition(".")[0]

    @property
    def path(self) -> str:
        """As gRPC calls it."""
        return f"/{self.service}/{self.descriptor.name}"

    @property
    def names(self) -> tuple[Named, ...]:
        """What its requests may name."""
        return _IN_TENANTS if self.access.tenant_field else (Named.NOTHING,)

    def expected(self, caller: CallerKind, named: Named) -> Outcome:
        """What this caller hears when the request names this."""
        if caller is CallerKind.NOBODY:
            return Outcome.UNAUTHENTICATED
        if caller in _PROCESSES or self.access.role in _PROCESSES.values():
            mine = _PROCESSES.get(caller) == self.access.role
            return Outcome.LET_IN if mine else Outcome.PERMISSION_DENIED
        if _RANKS[caller] < self.access.role:
            return Outcome.PERMISSION_DENIED
        if caller is CallerKind.ADMIN:
            return Outcome.LET_IN
        return self._expected_of_tenant(named)

    def _expected_of_tenant(self, named: Named) -> Outcome:
        match named:
            case Named.NOTHING | Named.OWN:
                return Outcome.LET_IN
            case Named.OTHER:
                return Outcome.IF_SHARED if self.access.shared_allowed else Outcome.PERMISSION_DENIED
            case Named.PLATFORM:
                return Outcome.PERMISSION_DENIED
            case Named.BASE_MODEL:
                return Outcome.LET_IN if self.access.platform_names_allowed else Outcome.INVALID_ARGUMENT
            case Named.NO_NAME:
                return Outcome.INVALID_ARGUMENT


def services() -> Iterator[ServiceDescriptor]:
    """Every service of the API that the server answers, by name."""
    found: dict[str, ServiceDescriptor] = {}
    for module in pkgutil.iter_modules(trellis.v1.__path__, "trellis.v1."):
        if module.name.endswith("_pb2"):
            here = importlib.import_module(module.name).DESCRIPTOR.services_by_name.values()
            found |= {service.full_name: service for service in here}
    yield from (found[name] for name in sorted(found.keys() - ENGINES_OWN))


def methods() -> Iterator[Method]:
    """Every method of them, as the API orders them."""
    for service in services():
        for method in service.methods:
            yield Method(method, method.GetOptions().Extensions[access_pb2.access])


_HEAD = """# Who may call what

Made from the annotations in `proto/` by `scripts/generate-access-table`; a test calls every method in every one of these
ways over a real socket and compares. What each role and scope is for is in [security.md](security.md).

A row is a method, with the scope that a narrowed key needs. In each cell stand the answers, in this order, to a request that
names something of the caller's own tenant, of another tenant, of the platform (`platform`, `tenants/-`), a base model
(`baseModels/…`), or nothing that is a name. One sign alone is the answer to all of them, or the method touches no tenant.

| sign | answer |
|---|---|
| ✓ | let in: what the method itself answers |
| ✗ | `PERMISSION_DENIED`, the same whether or not there is such a thing |
| s | as ✗, unless the other tenant shares it with the caller's |
| ? | `UNAUTHENTICATED` |
| ! | `INVALID_ARGUMENT` |

An admin may name everything, so that a wrong name is the method's own to refuse. What is marked *ticket* is also opened by the
ticket that an attempt or a trainer was started with, which opens nothing else.
"""


def as_markdown() -> str:
    """The page docs/access.md."""
    lines = [_HEAD]
    service = ""
    for method in methods():
        if method.service != service:
            service = method.service
            columns = ["method", "scope", *(kind.value for kind in CallerKind)]
            lines += [f"\n## {service.rpartition('.')[2]}\n", _row(columns), _row(["---"] * len(columns))]
        scope = access_pb2.Scope.Name(method.access.scope).removeprefix("SCOPE_") if method.access.scope else "-"
        cells = (_cell(method, kind) for kind in CallerKind)
        ticket = " *ticket*" if method.access.ticket_allowed else ""
        lines.append(_row([f"`{method.descriptor.name}`{ticket}", scope, *cells]))
    return "\n".join(lines) + "\n"


def _cell(method: Method, kind: CallerKind) -> str:
    signs = [method.expected(kind, named).value for named in method.names]
    return " ".join(signs) if len(set(signs)) > 1 else signs[0]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
