"""An export from the CLI's command to a base model of its own: a server and a Ray as processes, over real sockets."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tests.local_ray import LocalRay, local_ray
from tests.server_process import BASE, Server
from tests.tiny_adapter import write_adapter
from transformers import AutoModelForCausalLM

import trellis
from trellis.bases import read_base
from trellis.client.types import ExportState
from trellis.local.ports import free_ports
from trellis.tokens import ChatTokenizer

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
SECONDS = 120.0
TOKENS = torch.tensor([[5, 17, 60, 3, 88, 41, 9, 33]])


@pytest.fixture(scope="module")
def ray() -> Iterator[LocalRay]:
    with local_ray(cpus=1) as running:
        yield running


@pytest.fixture
def server(tmp_path: Path, ray: LocalRay) -> Iterator[Server]:
    grpc_port, http_port = free_ports(2)
    found = Server(tmp_path, grpc_port, http_port)
    found.start(TRELLIS_RAY_DASHBOARD_URL=ray.url, TRELLIS_RAY_TOKEN_FILE=str(ray.token_file))
    found.until_ready()
    yield found
    for process in found.started:
        process.kill()
        process.wait()


@pytest.fixture
def client(server: Server) -> Iterator[trellis.Client]:
    with server.client() as admin:
        admin.tenants.create("acme")
    with server.client(tenant="acme") as connected:
        yield connected


@pytest.fixture
def peft(tmp_path: Path) -> Path:
    """A random adapter of the tiny base, as PEFT writes it."""
    folder = tmp_path / "peft"
    write_adapter(folder, read_base(str(BASE)), ChatTokenizer.load(BASE).digest, seed=4)
    (folder / "manifest.json").unlink()
    return folder


def logits(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits  # type: ignore[no-any-return]


def test_an_adapter_becomes_a_model_of_its_own(
    server: Server, client: trellis.Client, peft: Path, tmp_path: Path
) -> None:
    adapter = client.adapters.import_(peft, base_model="tiny")
    client.aliases.set("support", adapter.name)
    asked = client.exports.create("support", export_id="mine", request_id="once")
    assert client.exports.create("support", export_id="mine", request_id="once").name == asked.name
    export = client.exports.wait(asked.name, timeout=SECONDS)
    assert (export.state, export.source) == (ExportState.SUCCEEDED, adapter.name)

    folder = tmp_path / "model"
    client.exports.download(export.name, folder)
    merged, with_peft, base = logits(folder), logits(BASE, peft), logits(BASE)
    # The tiny base is kept in bfloat16, to which the merged weights are rounded.
    assert float((merged - with_peft).abs().max()) < 0.05 * float((base - with_peft).abs().max())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["adapter_digest"] == adapter.digest
    assert set(load_file(folder / "model.safetensors")) == set(load_file(BASE / "model.safetensors"))

    own = client.base_models.create("support-merged", source=str(folder))
    assert (own.architecture, own.has_chat_template) == ("LlamaForCausalLM", True)
    assert own.parameter_count == client.base_models.get("tiny").parameter_count
    assert own.revision != client.base_models.get("tiny").revision

    client.exports.delete(export.name)
    assert list((server.folder / "objects/tenants/acme").glob("exports/*/*")) == []


def test_an_export_whose_adapters_files_are_gone_says_so(server: Server, client: trellis.Client, peft: Path) -> None:
    adapter = client.adapters.import_(peft, base_model="tiny")
    for file in (server.folder / "objects/tenants/acme/adapters").rglob("*.safetensors"):
        file.unlink()
    asked = client.exports.create(adapter.name.rpartition("/")[2])
    with pytest.raises(trellis.FailedPrecondition, match="in use"):
        client.adapters.delete(adapter.name)
    with pytest.raises(trellis.ExportFailed, match=r"adapter_model\.safetensors is gone") as caught:
        client.exports.wait(asked.name, timeout=SECONDS)
    assert caught.value.reason == "RESOURCE_NOT_FOUND"
    client.adapters.delete(adapter.name)
