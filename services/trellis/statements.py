"""How amounts are reckoned and how a statement's entries are hashed: pure, so that whoever gets a statement can check it."""

import json
from datetime import UTC, datetime


def amount_nanos(quantity: int, price_nanos: int, price_units: int) -> int:
    """What `quantity` units cost, of which `price_units` cost `price_nanos`: exact, then rounded once, halves to the even
    neighbour.
    """
    whole, rest = divmod(quantity * price_nanos, price_units)
    twice = 2 * rest - price_units
    return whole + (twice > 0 or (twice == 0 and whole % 2 == 1))


def entry_line(
    sequence: int,
    time: datetime,
    tenant: str,
    kind: str,
    meter: str,
    quantity: int,
    price_nanos: int,
    tuning_job: str,
    adapter: str,
    base_model: str,
    key: str,
) -> bytes:
    """The line of an entry of the ledger over which the sha256 of a statement goes; `tenant` is its resource name."""
    moment = time.astimezone(UTC).isoformat(timespec="microseconds")
    values = (sequence, moment, tenant, kind, meter, quantity, price_nanos, tuning_job, adapter, base_model, key)
    return json.dumps(values, separators=(",", ":")).encode("ascii") + b"\n"
