"""Prices, exact to a billionth, from a file."""

import json
from pathlib import Path

import pytest

from trellis.server.config import ConfigError
from trellis.server.domain.ledger import PRICE_UNITS, Meter
from trellis.server.domain.prices import FREE
from trellis.server.price_file import FIELDS, read_prices

TEXT = """
currency = "EUR"

[prices]
accelerator_hour = "1.8"
million_prompt_tokens = "0.150000001"

[base_models."llama-3.1-8b"]
million_prompt_tokens = "2"
"""


def test_prices_are_read_exactly(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(TEXT)
    prices = read_prices(tmp_path / "prices.toml")
    assert prices.currency == "EUR"
    assert prices.of(Meter.ACCELERATOR_MILLISECONDS, "baseModels/llama-3.1-8b") == 1_800_000_000
    assert prices.of(Meter.PROMPT_TOKENS) == 150_000_001
    assert prices.of(Meter.PROMPT_TOKENS, "baseModels/llama-3.1-8b") == 2_000_000_000
    assert prices.of(Meter.PROMPT_TOKENS, "baseModels/other") == 150_000_001
    assert prices.of(Meter.TRAINED_TOKENS) == 0
    plain = {"currency": "EUR", "prices": {"accelerator_hour": "1.8", "million_prompt_tokens": "0.150000001"}}
    plain["base_models"] = {"llama-3.1-8b": {"million_prompt_tokens": "2"}}
    (tmp_path / "prices.json").write_text(json.dumps(plain))
    assert read_prices(tmp_path / "prices.json") == prices


def test_every_meter_has_a_price_and_nothing_costs_anything_without_a_file() -> None:
    assert set(FIELDS.values()) == set(Meter) == set(PRICE_UNITS)
    assert FREE.of(Meter.PROMPT_TOKENS, "baseModels/x") == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"1.8"', "1.8", "prices.accelerator_hour must be a decimal number as text"),
        ('"1.8"', '"-1"', "prices.accelerator_hour must be"),
        ('"0.150000001"', '"0.1500000001"', "at most nine digits"),
        ('"1.8"', '"1e3"', "must be a decimal number"),
        ("accelerator_hour", "gpu_hour", "prices has 'gpu_hour', but may only have accelerator_hour,"),
        ('"EUR"', '""', "currency must be a word"),
        ("[prices]", "[price]", "the file has 'price'"),
        ('"llama-3.1-8b"', '"Llama 3"', "of base_models, 'baseModels/Llama 3' is not a name"),
        ("[prices]", "[prices", "it is no TOML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "prices.toml"
    assert old in TEXT
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read_prices(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="it can't be read"):
        read_prices(tmp_path / "nowhere.toml")
