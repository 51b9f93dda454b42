"""Adapters that were made elsewhere: taken when they fit, refused when they do not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file
from tests.e2e import tuning
from tests.e2e.conftest import Team
from tests.tiny_adapter import write_adapter

import trellis
from trellis.artifacts import ADAPTER_FILES
from trellis.bases import read_base
from trellis.client.types import Deployment

BASE = "trellis-tiny"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def made_elsewhere(globex: Team, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as PEFT writes it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    write_adapter(folder, read_base(globex.client.base_models.get(BASE).source), "", seed=3, scale=0.2)
    (folder / "manifest.json").unlink()
    return folder


@pytest.fixture
def broken(made_elsewhere: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    for name in ADAPTER_FILES:
        shutil.copy(made_elsewhere / name, tmp_path / name)
    return tmp_path


def test_an_imported_adapter_is_called_and_an_alias_moves_at_once(globex: Team, made_elsewhere: Path) -> None:
    client = globex.client
    imported = client.adapters.import_(made_elsewhere, base_model=BASE, display_name="from elsewhere")
    assert imported.deployment is Deployment.UNDEPLOYED
    assert client.adapters.import_(made_elsewhere, base_model=BASE).name == imported.name
    with pytest.raises(trellis.FailedPrecondition) as caught:
        globex.says(1, imported.name)
    assert caught.value.reason == "ADAPTER_NOT_DEPLOYED"

    imported = client.adapters.deploy(imported.name, timeout=60)
    assert imported.deployment is Deployment.DEPLOYED
    tuned = client.adapters.get(globex.done.adapter)
    for adapter in (tuned, imported, tuned, imported):
        client.aliases.set("moving", adapter.name)
        said = globex.says(2, "moving")
        assert said.adapter_digest == adapter.digest
        assert said.token_ids == globex.says(2, adapter.name).token_ids
    client.aliases.delete("moving")
    client.adapters.undeploy(imported.name)
    client.adapters.delete(imported.name)


def spoil_weights(folder: Path, change: str) -> None:
    weights = load((folder / WEIGHTS).read_bytes())
    name = min(weights)
    if change == "shape":
        weights[name] = weights[name][:, :-1].contiguous()
    elif change == "nan":
        weights[name][0, 0] = torch.nan
    else:
        weights = {key: torch.zeros_like(value) for key, value in weights.items()}
    save_file(weights, folder / WEIGHTS)


@pytest.mark.parametrize("change", ["shape", "nan", "zeros"])
def test_weights_that_do_not_fit_are_refused(globex: Team, broken: Path, change: str) -> None:
    spoil_weights(broken, change)
    assert_refused(globex.client, broken)


def test_pickle_is_refused_whatever_it_is_called(globex: Team, broken: Path) -> None:
    torch.save({"a": torch.ones(1)}, broken / WEIGHTS)
    assert_refused(globex.client, broken)
    (broken / WEIGHTS).rename(broken / "adapter_model.bin")
    assert "Pickle" in assert_refused(globex.client, broken)


def test_a_config_that_says_otherwise_is_refused(globex: Team, broken: Path) -> None:
    config = json.loads((broken / CONFIG).read_text())
    (broken / CONFIG).write_text(json.dumps({**config, "r": 2 * config["r"]}))
    assert_refused(globex.client, broken)


def assert_refused(client: trellis.Client, folder: Path) -> str:
    before = [adapter.name for adapter in client.adapters.list()]
    with pytest.raises(trellis.InvalidArgument) as caught:
        client.adapters.import_(folder, base_model=BASE)
    assert caught.value.reason == "ADAPTER_INVALID"
    assert [adapter.name for adapter in client.adapters.list()] == before
    return str(caught.value)


def test_an_unknown_base_is_said(globex: Team, made_elsewhere: Path) -> None:
    with pytest.raises(trellis.FailedPrecondition) as caught:
        globex.client.adapters.import_(made_elsewhere, base_model="no-such-base")
    assert caught.value.reason == "BASE_MODEL_UNAVAILABLE"
    assert tuning.DATASET in {alias.name.rpartition("/")[2] for alias in globex.client.aliases.list()}
