"""Verifies bearer tokens: JSON Web Tokens (RFC 7519) that an issuer whom the operator trusts has signed."""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import jwt

from trellis.server.app.identities import Identity
from trellis.server.oidc.claims import identity_of
from trellis.server.oidc.issuers import Issuer
from trellis.server.oidc.key_set import KeySet
from trellis.server.oidc.refusal import refused

_MOST_CHARACTERS = 16_384
_MOST_SUBJECT = 255
_UNCHECKED: Final[jwt.types.Options] = {"verify_signature": False}
_SIGNATURE_ALONE: Final[jwt.types.Options] = {
    "verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False, "verify_iss": False,
    "enforce_minimum_key_length": True,
}  # fmt: skip
"""The claims are checked below: by our clock, and with sentences of our own."""


class JwtVerifier:
    """Knows the issuers that the operator trusts; of a token that is refused it says which check failed, and no more."""

    def __init__(self, issuers: Iterable[Issuer], key_set: type[KeySet] = KeySet) -> None:
        self._issuers = {issuer.issuer: (issuer, key_set(issuer)) for issuer in issuers}

    async def verify(self, token: str, now: datetime) -> Identity:
        """See TokenVerifier."""
        header, unverified = _read(token)
        issuer, keys = self._issuer_of(unverified)
        algorithm = header.get("alg")
        if algorithm not in issuer.algorithms:
            message = f"The token's signature is of a kind that is not taken; of this issuer {', '.join(issuer.algorithms)} are."
            raise refused(message, "algorithm")
        key = await keys.find(str(header.get("kid") or ""), algorithm)
        if key is None:
            raise refused("The token is signed with a key that its issuer does not publish.", "key")
        claims = _verified(token, key, algorithm)
        _check_claims(issuer, claims, now.timestamp())
        return identity_of(issuer, claims)

    def _issuer_of(self, claims: Mapping[str, Any]) -> tuple[Issuer, KeySet]:
        issuer = claims.get("iss")
        if not isinstance(issuer, str) or issuer not in self._issuers:
            raise refused("The token's issuer is none that this server trusts.", "issuer")
        return self._issuers[issuer]


def _read(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The header and the claims, as whoever made the token wrote them."""
    if len(token) > _MOST_CHARACTERS:
        raise refused(f"The token is longer than {_MOST_CHARACTERS} characters.", "form")
    try:
        read = jwt.decode_complete(token, options=_UNCHECKED)
    except jwt.PyJWTError:
        raise refused("The bearer token is not a JSON Web Token that can be read.", "form") from None
    return read["header"], read["payload"]


def _verified(token: str, key: jwt.PyJWK, algorithm: str) -> Mapping[str, Any]:
    try:
        return jwt.decode(token, key, algorithms=[algorithm], options=_SIGNATURE_ALONE)
    except jwt.InvalidKeyError:
        raise refused("The token is signed with a key that is too short.", "key") from None
    except jwt.PyJWTError:
        raise refused("The token's signature is wrong.", "signature") from None


def _check_claims(issuer: Issuer, claims: Mapping[str, Any], now: float) -> None:
    skew = issuer.clock_skew_seconds
    if claims.get("iss") != issuer.issuer:
        raise refused("The token's issuer is none that this server trusts.", "issuer")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if not any(one in issuer.audiences for one in audiences if isinstance(one, str)):
        raise refused("The token is for another audience than this server.", "audience")
    expiry = _time(claims, "exp")
    if expiry is None:
        raise refused("The token has no time at which it expires.", "expiry")
    if now >= expiry + skew:
        raise refused("The token has expired.", "expiry")
    for claim in ("nbf", "iat"):
        begin = _time(claims, claim)
        if begin is not None and now < begin - skew:
            raise refused("The token is not valid yet.", "not before")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _MOST_SUBJECT or not subject.isprintable():
        raise refused(f"The token has no subject of 1 to {_MOST_SUBJECT} characters.", "subject")


def _time(claims: Mapping[str, Any], claim: str) -> float | None:
    value = claims.get(claim)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise refused(f"The token's {claim} is not a time.", "times")
    return float(value)
