"""What tenants have had: their dominant share of the platform by the second, each second fading with its age."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class _Use:
    had: float = 0.0
    share: float = 0.0
    at: float = 0.0


class PastUse:
    """Each tenant's use, as it has its share now; times are in seconds from any origin, and never go back."""

    def __init__(self, half_life: float, had: Mapping[str, float]) -> None:
        self._half_life = half_life
        self._uses = {tenant: _Use(seconds) for tenant, seconds in had.items()}

    def hold(self, tenant: str, share: float, at: float) -> None:
        """From now on the tenant has so much more, or less."""
        use = self._settled(tenant, at)
        use.share += share

    def of(self, tenant: str, at: float) -> float:
        """Share times seconds, each second counted half after the half-life."""
        return self._settled(tenant, at).had

    def share(self, tenant: str) -> float:
        """What it has now."""
        use = self._uses.get(tenant)
        return use.share if use else 0.0

    def _settled(self, tenant: str, at: float) -> _Use:
        use = self._uses.setdefault(tenant, _Use(at=at))
        passed = at - use.at
        if passed > 0:
            kept = 0.5 ** (passed / self._half_life)
            # The integral of share · ½^((at − s) / half-life) over the time that has passed.
            use.had = use.had * kept + use.share * self._half_life / math.log(2) * (1 - kept)
            use.at = at
        return use
