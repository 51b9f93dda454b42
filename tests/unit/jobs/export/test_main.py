"""The export's process, as the cluster runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tiny_llama import write_tiny_llama
from tests.unit.jobs.export.conftest import ADAPTER_KEY, KEY, Exporting

from trellis.errors import Reason
from trellis.exports import TASK_FILE, ExportFailure, check_contents, read_manifest


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base"))


def process(exporting: Exporting, number: int = 1) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "TRELLIS_STORE_URL": exporting.store.url,
        "TRELLIS_EXPORT_KEY": KEY,
        "TRELLIS_EXPORT_RUN": str(number),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "trellis_jobs.export.main"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_it_ends_well_with_a_manifest_and_says_how_far_it_is(exporting: Exporting, base: Path) -> None:
    exporting.adapt(base)
    exporting.task(base)
    ended = process(exporting)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "model.safetensors: " in ended.stdout
    check_contents(exporting.store, KEY, read_manifest(exporting.store, KEY))


def test_it_says_why_it_failed_and_whether_to_try_again(exporting: Exporting, base: Path) -> None:
    exporting.adapt(base)
    exporting.task(base, adapter_key="tenants/acme/adapters/gone")
    assert process(exporting, 2).returncode == 1
    said = ExportFailure.from_json(exporting.store.read_bytes(f"{KEY}/error-2.json"))
    assert (said.reason, said.again) == (Reason.RESOURCE_NOT_FOUND, False)
    assert "tenants/acme/adapters/gone/adapter_config.json is gone" in said.message


def test_a_deleted_export_leaves_nothing(exporting: Exporting, base: Path) -> None:
    exporting.adapt(base)
    exporting.task(base)
    exporting.store.delete(f"{KEY}/{TASK_FILE}")
    exporting.store.put_bytes(f"{KEY}/model.safetensors", b"of a run before")
    ended = process(exporting)
    assert ended.returncode == 0
    assert "The export was deleted." in ended.stdout
    assert exporting.store.list(KEY) == []
    assert exporting.store.exists(f"{ADAPTER_KEY}/adapter_config.json")
