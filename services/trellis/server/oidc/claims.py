"""From the claims of a verified token to a tenant, a role and scopes."""

from collections.abc import Mapping
from typing import Any

from trellis.server.app.identities import Identity
from trellis.server.domain.caller import Role
from trellis.server.oidc.issuers import Grant, Issuer
from trellis.server.oidc.refusal import refused

_OF_WORDS = frozenset({"scope", "scp"})
"""Claims that are a text of several words (RFC 8693, 4.2)."""


def identity_of(issuer: Issuer, claims: Mapping[str, Any]) -> Identity:
    """Who the claims make the caller; raises TOKEN_INVALID.

    Of several grants the highest role counts, with the scopes of all grants of that role, or none if one of these has none.
    """
    principal = f"oidc:{issuer.issuer}#{claims['sub']}"
    values = _values(claims, issuer.role_claim)
    grants = [grant for grant in issuer.grants if not grant.value or grant.value in values]
    if admins := [grant for grant in grants if grant.role is Role.ADMIN]:
        return _identity(principal, None, admins)
    tenant = _tenant(issuer, claims, grants)
    here = [grant for grant in grants if grant.tenant in {"", tenant}]
    if not here:
        raise refused("The token's claims give no role in its tenant.", "role")
    return _identity(principal, tenant, here)


def _identity(principal: str, tenant: str | None, grants: list[Grant]) -> Identity:
    role = max(grant.role for grant in grants)
    scopes = [grant.scopes for grant in grants if grant.role is role]
    return Identity(principal, role, tenant, frozenset().union(*scopes) if all(scopes) else frozenset())


def _tenant(issuer: Issuer, claims: Mapping[str, Any], grants: list[Grant]) -> str:
    if issuer.tenant_claim:
        named = _values(claims, issuer.tenant_claim)
        found = {issuer.tenants[value] for value in named if value in issuer.tenants} if issuer.tenants else named
    else:
        found = {grant.tenant for grant in grants}
    if not found:
        raise refused("The token's claims name no tenant that this server knows of.", "tenant")
    if len(found) > 1:
        raise refused("The token's claims name several tenants; a token is for one.", "tenant")
    return found.pop()


def _values(claims: Mapping[str, Any], path: str) -> set[str]:
    """The texts at the dotted path; a claim whose whole name has dots, such as a URL, is found too."""
    found: Any = claims.get(path) if path in claims else claims
    if path not in claims:
        for part in path.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        return set(found.split()) if path in _OF_WORDS else {found} - {""}
    return {value for value in found if isinstance(value, str) and value} if isinstance(found, list) else set()
