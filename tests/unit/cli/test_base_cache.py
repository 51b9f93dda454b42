"""`trellis base-models fetch | cached | verify`: on this machine, without a server."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.hub_fake import write_base
from tests.unit.cli.conftest import Ran


def test_a_base_is_fetched_listed_and_verified(
    offline: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cache = str(write_base(tmp_path / "model", rows=1000)), str(tmp_path / "cache")
    refused = offline("base-models", "cached")
    assert refused.code == 2
    assert "TRELLIS_BASE_CACHE" in refused.err
    got = offline("base-models", "fetch", source, "--cache", cache, "--format", "json")
    assert (got.code, got.json["was_present"]) == (0, False), got.err
    monkeypatch.setenv("TRELLIS_BASE_CACHE", cache)
    again = offline("base-models", "fetch", source)
    assert again.code == 0
    assert "is in the cache" in again.err
    (listed,) = offline("base-models", "cached", "--format", "json").json
    assert (listed["source"], listed["bytes"]) == (source, got.json["bytes"])
    assert "31." in offline("base-models", "cached").out  # KiB
    assert offline("base-models", "verify", source).code == 0
    shard = Path(got.json["path"]) / "model-1-of-2.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    damaged = offline("base-models", "verify", source)
    assert damaged.code == 1
    assert "model-1-of-2.safetensors has other bytes than were fetched." in damaged.err


def test_what_can_not_be_fetched_is_said(offline: Callable[..., Ran], tmp_path: Path) -> None:
    ran = offline("base-models", "fetch", "acme/llama", "--offline", "--cache", str(tmp_path / "cache"))
    assert ran.code == 1
    assert "acme/llama is not in the cache" in ran.err
