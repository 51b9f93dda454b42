"""The adapters that a base model's engine shall have at hand, as the server writes them and replicas read them; pure.

They lie in the object store and not in Serve's config, for a replica is out of Serve's routing while that changes
(docs/adr/0006).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

MAX_WANTED: Final = 2000
"""The longest list; adapters beyond it are fetched when they are called."""


class WantedError(ValueError):
    """The bytes are no list of adapters."""


@dataclass(frozen=True, slots=True)
class WantedAdapter:
    """One that may be called at any moment."""

    digest: str
    key: str
    """Its folder in the object store."""


@dataclass(frozen=True, slots=True)
class WantedAdapters:
    """All of a base model, those that are wanted most first."""

    adapters: Sequence[WantedAdapter]

    def to_json(self) -> bytes:
        """The object's bytes; those that are wanted most, if there are too many."""
        rows = [[adapter.digest, adapter.key] for adapter in self.adapters[:MAX_WANTED]]
        return json.dumps({"adapters": rows}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read the object's bytes. Raises WantedError."""
        try:
            rows = json.loads(data)["adapters"][:MAX_WANTED]
            found = tuple(WantedAdapter(digest, key) for digest, key in rows)
        except (ValueError, TypeError, KeyError) as error:
            raise WantedError(f"The list of wanted adapters can't be read: {error}.") from error
        if any(not isinstance(text, str) for adapter in found for text in (adapter.digest, adapter.key)):
            raise WantedError("The list of wanted adapters holds something that is no text.")
        return cls(found)


def wanted_key(base_model_id: str) -> str:
    """Where a base model's list lies in the object store."""
    return f"engines/{base_model_id}/adapters.json"
