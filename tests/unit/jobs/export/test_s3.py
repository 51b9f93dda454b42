"""An export whose adapter and files are on S3, a real server on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.s3_server import s3_server
from tests.tiny_llama import write_tiny_llama
from tests.unit.jobs.export.conftest import KEY, Exporting, logits_of, worst

from trellis.exports import check_contents, read_manifest
from trellis_jobs.export.run import run
from trellis_jobs.export.stop import ExportUnwantedError


@pytest.fixture
def on_s3(exporting: Exporting) -> Iterator[Exporting]:
    with s3_server() as server:
        exporting.store = server.store()
        yield exporting


def test_files_go_to_s3_as_they_are_made(on_s3: Exporting, tmp_path: Path) -> None:
    base = write_tiny_llama(tmp_path / "base")
    adapter = on_s3.adapt(base)
    merged, manifest = on_s3.run(base, shard_bytes=40_000)
    check_contents(on_s3.store, KEY, read_manifest(on_s3.store, KEY))
    assert len([path for path in manifest.files if path.endswith(".safetensors")]) > 1
    assert worst(logits_of(merged), logits_of(base, adapter)) < 1e-4
    on_s3.store.delete_prefix(KEY)
    with pytest.raises(ExportUnwantedError):
        run(on_s3.store, KEY, "1")
    assert on_s3.store.list(KEY) == []
