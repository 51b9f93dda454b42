"""What used units cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from trellis.server.domain.ledger import Meter


@dataclass(frozen=True, slots=True)
class Prices:
    """In billionths of the currency, for as many units of each meter as PRICE_UNITS says; what is missing costs nothing."""

    currency: str = ""
    """As the installation names it, such as `EUR`; empty where nothing has a price."""
    nanos: Mapping[Meter, int] = field(default_factory=dict)
    of_bases: Mapping[str, Mapping[Meter, int]] = field(default_factory=dict)
    """By the name of a base model: prices of its own, instead of the others."""

    def of(self, meter: Meter, base_model: str = "") -> int:
        """The price of what was measured of a base model, or of nothing in particular."""
        own = self.of_bases.get(base_model, {})
        return own.get(meter, self.nanos.get(meter, 0))


FREE: Final = Prices()
