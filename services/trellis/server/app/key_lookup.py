"""Finds the keys of calls, for all that come at the same time with one query.

Nothing is remembered: a key that was revoked opens nothing from the answer on, on every server.
"""

from collections.abc import Sequence

from trellis.server.app.batches import Batches
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.caller import ApiKey

KeyLookup = Batches[str, ApiKey | None]
"""From the hash of a secret to the key that it opens."""


def key_lookup(units: UnitOfWorkFactory) -> KeyLookup:
    """One over this database."""

    async def look(secret_hashes: Sequence[str]) -> Sequence[ApiKey | None]:
        async with units(write=False, snapshot=False) as unit:
            found = await unit.api_keys.find_all(set(secret_hashes))
        return [found.get(secret_hash) for secret_hash in secret_hashes]

    return Batches(look)
