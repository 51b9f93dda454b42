"""One export: from the task in the object store to the manifest, which comes last."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from trellis.artifacts import ADAPTER_FILES, WEIGHTS_FILE, check_adapter_folder
from trellis.base_cache.waiting import read_base_in_time
from trellis.bases import TEXT_FILES, BaseFacts, weight_files
from trellis.errors import Reason
from trellis.exports import TASK_FILE, ExportManifest, ExportTask, is_file_path, write_manifest
from trellis.objects import ObjectStore
from trellis.tokens import ChatTokenizer
from trellis_jobs.export.folder import ExportFolder
from trellis_jobs.export.merge import Merge
from trellis_jobs.export.shards import INDEX_FILE, SHARD_BYTES, Shard, index_json, plan_shards
from trellis_jobs.export.stop import ExportFailedError

_KEPT: Final = (*TEXT_FILES, "additional_chat_templates/*.jinja", "LICENSE*", "NOTICE*", "USE_POLICY*")
"""Patterns of the base's files that belong to the merged model too."""
_log = logging.getLogger(__name__)


def run(store: ObjectStore, key: str, code_version: str, *, shard_bytes: int = SHARD_BYTES) -> ExportManifest:
    """Make the export under `key`, whose task lies there; all of its files, then the manifest.

    Raises ExportUnwantedError when the task is gone, ExportFailedError and what reading base and adapter raises.
    """
    folder = ExportFolder(store, key)
    folder.check_wanted()
    task = ExportTask.from_json(store.read_bytes(f"{key}/{TASK_FILE}"))
    base = _open_base(task)
    with tempfile.TemporaryDirectory(prefix="trellis-export-") as scratch:
        adapter = Path(scratch)
        for name in ADAPTER_FILES:
            store.get_file(f"{task.adapter_key}/{name}", adapter / name)
        merge = Merge(adapter / WEIGHTS_FILE, check_adapter_folder(adapter, base))
        _write_weights(base, merge, folder, shard_bytes)
    for path in _kept_files(base.path):
        folder.put(path.relative_to(base.path).as_posix(), path)
    manifest = _manifest(task, merge, folder, code_version)
    folder.check_wanted()
    write_manifest(store, key, manifest)
    folder.check_wanted()
    return manifest


def _open_base(task: ExportTask) -> BaseFacts:
    base = read_base_in_time(task.base_source, task.base_revision)
    if task.tokenizer_digest and ChatTokenizer.load(base.path).digest != task.tokenizer_digest:
        message = f"The tokenizer or chat template of {task.base_model} is no longer the registered one."
        raise ExportFailedError(Reason.BASE_MODEL_INVALID, f"{message} Restore its files, or register it anew.")
    return base


def _write_weights(base: BaseFacts, merge: Merge, folder: ExportFolder, shard_bytes: int) -> None:
    shards = plan_shards(weight_files(base.path), shard_bytes)
    total, done = sum(shard.size_bytes for shard in shards), 0
    _log.info("%d bytes of weights go into %d files.", total, len(shards))
    for shard in shards:
        _write_shard(shard, merge, folder)
        done += shard.size_bytes
        _log.info("%s: %d of %d bytes, %d modules merged.", shard.name, done, total, merge.tally.modules)
    merge.check_complete()
    if len(shards) > 1:
        with folder.writing(INDEX_FILE) as write:
            write(index_json(shards))


def _write_shard(shard: Shard, merge: Merge, folder: ExportFolder) -> None:
    with ExitStack() as stack:
        write = stack.enter_context(folder.writing(shard.name))
        streams = {path: stack.enter_context(path.open("rb")) for path in {tensor.path for tensor in shard.tensors}}
        write(shard.header())
        for tensor in shard.tensors:
            merge.write(tensor, streams[tensor.path], write)


def _kept_files(base: Path) -> Iterator[Path]:
    found = {path for pattern in _KEPT for path in base.glob(pattern) if path.is_file()}
    for path in sorted(found):
        if path.name not in {INDEX_FILE, TASK_FILE} and is_file_path(path.relative_to(base).as_posix()):
            yield path


def _manifest(task: ExportTask, merge: Merge, folder: ExportFolder, code_version: str) -> ExportManifest:
    tally = merge.tally
    merged = {"merged_modules": tally.modules, "changed_share": tally.changed / tally.weights}
    return ExportManifest(
        format=task.format,
        base_model=task.base_model,
        base_revision=task.base_revision,
        tokenizer_digest=task.tokenizer_digest,
        files=folder.files,
        adapter_digest=task.adapter_digest,
        source=task.source,
        tuning_job=task.tuning_job,
        spec=task.spec,
        metrics={**task.metrics, **merged},
        code_version=code_version,
    )
