"""The file of prices: TOML or JSON, read once at the server's start."""

import json
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from trellis.errors import TrellisError
from trellis.names import BaseModelName
from trellis.server.config import ConfigError
from trellis.server.domain.ledger import Meter
from trellis.server.domain.prices import Prices

FIELDS: Final[Mapping[str, Meter]] = {
    "accelerator_hour": Meter.ACCELERATOR_MILLISECONDS,
    "million_trained_tokens": Meter.TRAINED_TOKENS,
    "million_prompt_tokens": Meter.PROMPT_TOKENS,
    "million_completion_tokens": Meter.COMPLETION_TOKENS,
    "dataset_gigabyte_hour": Meter.DATASET_BYTE_HOURS,
    "artifact_gigabyte_hour": Meter.ARTIFACT_BYTE_HOURS,
}
"""Names of prices, each for as many units as PRICE_UNITS says."""
_KEYS: Final = ("currency", "prices", "base_models")
_AMOUNT: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_CURRENCY: Final = re.compile(r"[A-Za-z]{1,10}")
_NANOS: Final = 10**9


def read_prices(path: Path) -> Prices:
    """The prices that the file states; raises ConfigError that says what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(path, f"it can't be read ({error})") from None
    except ValueError as error:
        raise _wrong(path, f"it is no {'JSON' if path.suffix == '.json' else 'TOML'} ({error})") from None
    return _prices(path, found)


def _prices(path: Path, found: object) -> Prices:
    table = _table(path, "the file", found)
    _known(path, "the file", table, _KEYS)
    currency = table.get("currency", "")
    if not isinstance(currency, str) or not _CURRENCY.fullmatch(currency):
        raise _wrong(path, "currency must be a word of letters, such as EUR")
    bases = _table(path, "base_models", table.get("base_models", {}))
    return Prices(
        currency,
        _nanos(path, "prices", table.get("prices", {})),
        {_base(path, name): _nanos(path, f"base_models.{name}", prices) for name, prices in bases.items()},
    )


def _nanos(path: Path, where: str, found: object) -> Mapping[Meter, int]:
    table = _table(path, where, found)
    _known(path, where, table, tuple(FIELDS))
    return {FIELDS[name]: _amount(path, f"{where}.{name}", value) for name, value in table.items()}


def _amount(path: Path, where: str, value: object) -> int:
    if not isinstance(value, str) or not _AMOUNT.fullmatch(value):
        rule = 'a decimal number as text, such as "1.80", with at most nine digits before and after the point'
        raise _wrong(path, f"{where} must be {rule}, not {value!r}")
    return int(Decimal(value) * _NANOS)


def _base(path: Path, name: str) -> str:
    try:
        return str(BaseModelName.parse(f"baseModels/{name}"))
    except TrellisError as error:
        raise _wrong(path, f"of base_models, {error}") from None


def _table(path: Path, where: str, found: object) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise _wrong(path, f"{where} must be a table of names and values")
    return found


def _known(path: Path, where: str, table: Mapping[str, Any], names: tuple[str, ...]) -> None:
    unknown = sorted(table.keys() - set(names))
    if unknown:
        raise _wrong(path, f"{where} has {unknown[0]!r}, but may only have {', '.join(names)}")


def _wrong(path: Path, what: str) -> ConfigError:
    return ConfigError(f"The prices in {path} (TRELLIS_PRICES_FILE) can't be used: {what.rstrip('.')}.")
