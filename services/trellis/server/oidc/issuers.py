"""The identity providers that the operator trusts, and what their claims give: read from a TOML or JSON file."""

import ipaddress
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from trellis.server.domain.caller import Role, Scope

T = TypeVar("T")
ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Those of which the issuer alone has the key that signs: never `none`, nor HS256, whose key signs and verifies."""
_USUAL: Final = ("RS256", "ES256")


class IssuerError(ValueError):
    """The file is wrong; `str()` says where and what it must be."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a value of the role's claim gives."""

    role: Role
    value: str = ""
    """The claim's value; empty for every token of the issuer."""
    scopes: frozenset[Scope] = frozenset()
    """What the caller is narrowed to; all that the role may when empty."""
    tenant: str = ""
    """Counts in this tenant alone; in the token's own, whichever it is, when empty."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """An identity provider, and how its tokens are read."""

    issuer: str
    """Exactly as its tokens say it in `iss`."""
    audiences: tuple[str, ...]
    """Of which the token's `aud` must hold one."""
    algorithms: tuple[str, ...] = _USUAL
    clock_skew_seconds: float = 30.0
    """By so much its clock may differ from ours."""
    tenant_claim: str = ""
    """The claim that names the tenant, dotted from the token's root; grants name it when empty."""
    tenants: Mapping[str, str] = field(default_factory=dict)
    """From the claim's values to tenants; the values are tenants themselves when empty."""
    role_claim: str = ""
    """The claim whose values grants name: a text, or a list of them."""
    grants: tuple[Grant, ...] = ()
    jwks_uri: str = ""
    """Where its keys are; its discovery document says it when empty."""
    ca_file: str = ""
    """Certificates to trust when it is asked; the system's when empty."""


def read_issuers(path: Path) -> tuple[Issuer, ...]:
    """The issuers in the file; raises IssuerError."""
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise IssuerError(f"{path} can't be read: {error}") from None
    try:
        return _issuers(document)
    except IssuerError as error:
        raise IssuerError(f"{path}: {error}") from None


def is_loopback(host: str | None) -> bool:
    """Whether a URL's host is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def check_url(url: str, what: str) -> None:
    """Raise IssuerError unless nobody on the way can change what is at the URL."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise IssuerError(
            f"{what} must begin with https://, which it may do without on this machine only; it is {url!r}."
        )


def _issuers(document: Any) -> tuple[Issuer, ...]:
    tables = document.get("issuers") if isinstance(document, dict) else None
    if not isinstance(tables, list) or not tables or document.keys() != {"issuers"}:
        raise IssuerError("it must hold a list `issuers` and nothing else.")
    found = tuple(_issuer(table, f"issuers[{number}]") for number, table in enumerate(tables))
    if len({one.issuer for one in found}) < len(found):
        raise IssuerError("each issuer may stand there once.")
    return found


def _issuer(table: Any, where: str) -> Issuer:
    read = _Table(table, where)
    found = Issuer(
        issuer=read.need("issuer", str),
        audiences=read.texts("audiences"),
        algorithms=read.texts("algorithms") if "algorithms" in read.table else _USUAL,
        clock_skew_seconds=float(read.get("clock_skew_seconds", (int, float), 30.0)),
        tenant_claim=read.get("tenant_claim", str, ""),
        tenants=read.get("tenants", dict, {}),
        role_claim=read.get("role_claim", str, ""),
        grants=tuple(
            _grant(one, f"{where}.grants[{number}]") for number, one in enumerate(read.get("grants", list, []))
        ),
        jwks_uri=read.get("jwks_uri", str, ""),
        ca_file=read.get("ca_file", str, ""),
    )
    read.all_known()
    _check(found, where)
    return found


def _check(issuer: Issuer, where: str) -> None:
    for url, name in ((issuer.issuer, "issuer"), *([(issuer.jwks_uri, "jwks_uri")] if issuer.jwks_uri else [])):
        check_url(url, f"{where}.{name}")
    if wrong := sorted(set(issuer.algorithms) - set(ALGORITHMS)):
        raise IssuerError(f"{where}.algorithms has {wrong[0]!r}, but may have {', '.join(ALGORITHMS)}.")
    if not 0 <= issuer.clock_skew_seconds <= 300:
        raise IssuerError(f"{where}.clock_skew_seconds must be from 0 to 300.")
    if not all(isinstance(value, str) for value in issuer.tenants.values()):
        raise IssuerError(f"{where}.tenants must hold ids of tenants.")
    if not issuer.grants:
        raise IssuerError(f"{where}.grants must say which role a token gives; without any, no token gives one.")
    if not issuer.tenant_claim and not all(one.tenant or one.role is Role.ADMIN for one in issuer.grants):
        raise IssuerError(f"{where} must have tenant_claim, or every grant but an ADMIN's a tenant.")
    if not issuer.role_claim and any(one.value for one in issuer.grants):
        raise IssuerError(f"{where} must have role_claim, of which the grants name values.")


def _grant(table: Any, where: str) -> Grant:
    read = _Table(table, where)
    role = read.one_of("role", {role.name: role for role in (Role.MEMBER, Role.TENANT_ADMIN, Role.ADMIN)})
    scopes = read.texts("scopes") if "scopes" in read.table else ()
    if wrong := sorted(set(scopes) - set(Scope.__members__)):
        raise IssuerError(f"{where}.scopes has {wrong[0]!r}, but may have {', '.join(Scope.__members__)}.")
    value, tenant = read.get("value", str, ""), read.get("tenant", str, "")
    read.all_known()
    if role is Role.ADMIN and (tenant or not value):
        raise IssuerError(f"{where} makes admins of the whole platform: it must name a value, and no tenant.")
    return Grant(role, value, frozenset(Scope[name] for name in scopes), tenant)


class _Table:
    """A table of the file, of which each field is asked for once."""

    def __init__(self, table: Any, where: str) -> None:
        if not isinstance(table, dict):
            raise IssuerError(f"{where} must be a table.")
        self.table: Mapping[str, Any] = table
        self._where = where
        self._asked: set[str] = set()

    def get(self, name: str, kind: type[T] | tuple[type[T], ...], default: T) -> T:
        """The field, or its default."""
        self._asked.add(name)
        value = self.table.get(name, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise IssuerError(f"{self._where}.{name} is of the wrong kind: {value!r}.")
        return value

    def need(self, name: str, kind: type[T]) -> T:
        """The field, which must be there and say something."""
        value = self.get(name, kind, kind())
        if not value:
            raise IssuerError(f"{self._where}.{name} must be set.")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts that is not empty."""
        values: list[Any] = self.need(name, list)
        if not all(isinstance(value, str) and value for value in values):
            raise IssuerError(f"{self._where}.{name} must be a list of texts.")
        return tuple(values)

    def one_of(self, name: str, known: Mapping[str, T]) -> T:
        """What the field's text stands for."""
        text = self.need(name, str)
        if text not in known:
            raise IssuerError(f"{self._where}.{name} must be {' or '.join(known)}, not {text!r}.")
        return known[text]

    def all_known(self) -> None:
        """Raise IssuerError for a field that nobody asked for."""
        if unknown := sorted(set(self.table) - self._asked):
            raise IssuerError(
                f"{self._where} has the unknown field {unknown[0]!r}; known: {', '.join(sorted(self._asked))}."
            )
