"""An issuer's keys: fetched when they are needed, kept for a time, fetched again for a key that is not among them."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import structlog
from jwt import PyJWK, PyJWTError

from trellis.errors import Reason, error_for
from trellis.server.oidc.fetch import FetchError, fetch_keys
from trellis.server.oidc.issuers import Issuer

FRESH_SECONDS: Final = 300.0
"""Older keys are fetched again, while the old ones still count."""
KEPT_SECONDS: Final = 3600.0
"""Older ones count no more: what an issuer has withdrawn is dead then, even if it can't be asked."""
PAUSE_SECONDS: Final = 10.0
"""Between two fetches at the least: tokens that anybody makes up with made-up keys ask the issuer no more often."""
_ALL_SECONDS = 15.0
_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}
_log = structlog.get_logger(__name__)


class KeySet:
    """The keys of one issuer, for all calls of this server."""

    def __init__(
        self,
        issuer: Issuer,
        fetch: Callable[[Issuer], list[dict[str, Any]]] = fetch_keys,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer, self._fetch, self._clock = issuer, fetch, clock
        self._keys: list[dict[str, Any]] = []
        self._fetched = self._tried = float("-inf")
        self._lock = asyncio.Lock()
        self._refresh: asyncio.Task[None] | None = None

    async def find(self, kid: str, algorithm: str) -> PyJWK | None:
        """The key of this id, or the only one for the algorithm where `kid` is empty; None if there is none.

        Raises ISSUER_UNAVAILABLE where there are no keys to look among.
        """
        asked = self._clock()
        if asked - self._fetched >= KEPT_SECONDS:
            self._keys = []
            await self._fetch_since(asked)
            if not self._keys:
                raise _unavailable(self._issuer.issuer)
        elif asked - self._fetched >= FRESH_SECONDS and asked - self._tried >= PAUSE_SECONDS:
            self._refresh = asyncio.create_task(self._fetch_since(asked))
        found = self._among(kid, algorithm)
        if found is None:
            await self._fetch_since(asked)
            found = self._among(kid, algorithm)
        return found

    def _among(self, kid: str, algorithm: str) -> PyJWK | None:
        fitting = [key for key in self._keys if _fits(key, kid, algorithm)]
        if not fitting or (not kid and len(fitting) > 1):
            return None
        try:
            return PyJWK(fitting[0], algorithm)
        except PyJWTError:
            return None

    async def _fetch_since(self, asked: float) -> None:
        """Fetch, unless that was done since, or too shortly before; of many who ask, one does."""
        async with self._lock:
            if self._tried >= asked or self._clock() - self._tried < PAUSE_SECONDS:
                return
            self._tried = self._clock()
            try:
                keys = await asyncio.wait_for(asyncio.to_thread(self._fetch, self._issuer), _ALL_SECONDS)
            except (FetchError, TimeoutError) as error:
                _log.warning("issuer_not_reached", issuer=self._issuer.issuer, why=str(error) or "It took too long.")
                return
            self._keys, self._fetched = keys, self._clock()


def _fits(key: dict[str, Any], kid: str, algorithm: str) -> bool:
    if kid and key.get("kid") != kid:
        return False
    if key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
        return False
    kind = {"ES": "EC", "Ed": "OKP"}.get(algorithm[:2], "RSA")
    return key.get("kty") == kind and key.get("crv") == _CURVES.get(algorithm)


def _unavailable(issuer: str) -> Exception:
    message = (
        f"The keys of the issuer {issuer} can't be had at present, so that its tokens can't be checked. Try again."
    )
    return error_for(Reason.ISSUER_UNAVAILABLE, message, metadata={"issuer": issuer}, retry_after=PAUSE_SECONDS / 2)
