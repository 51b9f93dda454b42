"""Tricks with paths in names, in names of files, and in archives of adapters."""

import hashlib
from typing import Any, Final

from trellis.access_table import methods
from trellis.isolation.requests import request_for
from trellis.isolation.stage import Stage
from trellis.isolation.verdict import Verdict
from trellis.v1 import adapter_pb2, dataset_pb2

_REFUSALS: Final = frozenset({"INVALID_ARGUMENT", "PERMISSION_DENIED", "NOT_FOUND"})
_CLIMBS: Final = ("../", "..%2f", "%2e%2e/", "..\\", "./../", "....//", "..\u2044", "\u2025/", "..;/")


def _names(stage: Stage, verdict: Verdict) -> None:
    mine, theirs = stage.intruder.parent, stage.owner.tenant
    tricks = [f"{mine}/datasets/{climb * depth}{theirs}/datasets/canary" for climb in _CLIMBS for depth in (1, 2, 3)]
    tricks += [
        f"{mine}/../{theirs}/datasets/canary",
        f"{mine}//datasets/canary",
        f"/{stage.owner.parent}/datasets/canary",
        f"{stage.owner.parent}/datasets/canary\x00{mine}",
        f"{mine}\n{stage.owner.parent}/datasets/canary",
        "tenants/-/datasets/canary",
        "tenants/*/datasets/canary",
        f"tenants/{theirs.upper()}/datasets/canary",
        f"{mine}/datasets/canary?tenant={theirs}",
        f"{mine}/datasets/canary#{theirs}",
        f"{mine},{theirs}/datasets/canary",
        f"{mine}/datasets/canary' OR tenant='{theirs}",
        f"tenants/{theirs}\u200b/datasets/canary",
        "tenants/" + "a" * 5000,
    ]
    for method in methods():
        if method.access.tenant_field not in {"name", "parent", "model"} or method.descriptor.name.startswith("Delete"):
            continue
        for trick in tricks:
            answer = stage.wire.call(method, stage.intruder.key, request_for(method, trick))
            verdict.expect(answer.status in _REFUSALS, f"{method.path} with {trick[:120]!r}: {answer}")


def _filenames(stage: Stage, verdict: Verdict) -> None:
    upload = next(method for method in methods() if method.descriptor.name == "UploadDatasetVersion")
    before = [version.name for version in stage.owner.client.datasets.list_versions("canary")]
    for climb in _CLIMBS:
        data = (
            stage.intruder.data() + f'{{"prompt": "{len(climb)}", "completion": "{climb.encode().hex()}"}}\n'.encode()
        )
        header = dataset_pb2.UploadDatasetVersionRequest.Header(
            parent=f"{stage.intruder.parent}/datasets/tricks",
            filename=f"{climb * 4}{stage.owner.parent}/datasets/canary.jsonl",
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            allow_missing=True,
        )
        parts = (
            dataset_pb2.UploadDatasetVersionRequest(header=header),
            dataset_pb2.UploadDatasetVersionRequest(chunk=data),
        )
        answer = stage.wire.call(upload, stage.intruder.key, *parts)
        sound = answer.status in {"OK", "INVALID_ARGUMENT"}
        verdict.expect(sound, f"A file named {header.filename!r}: {answer}")
    after = [version.name for version in stage.owner.client.datasets.list_versions("canary")]
    verdict.expect(before == after, f"{stage.owner.parent} has other versions than before: {after}")


def _archives(stage: Stage, verdict: Verdict) -> None:
    bring = next(method for method in methods() if method.descriptor.name == "ImportAdapter")
    header = adapter_pb2.ImportAdapterRequest.Header(parent=stage.intruder.parent, base_model=stage.base_model)
    data = b"{}"
    tricks = [f"{climb}adapter_config.json" for climb in _CLIMBS]
    tricks += [
        "/etc/passwd",
        f"{stage.owner.parent}/adapters/x/adapter_config.json",
        "adapter_config.json\x00",
        "a.tar",
        "",
    ]
    for filename in tricks:
        file = adapter_pb2.ImportAdapterRequest.FileHeader(
            filename=filename, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
        )
        parts: tuple[Any, ...] = (
            adapter_pb2.ImportAdapterRequest(header=header),
            adapter_pb2.ImportAdapterRequest(file=file),
            adapter_pb2.ImportAdapterRequest(chunk=data),
        )
        answer = stage.wire.call(bring, stage.intruder.key, *parts)
        verdict.expect(answer.status == "INVALID_ARGUMENT", f"An adapter with a file named {filename!r}: {answer}")


CHECKS: Final = (
    ("paths.names", "No path trick in a name leads into the other tenant", _names),
    ("paths.filenames", "No path trick in a file's name changes the other tenant's data", _filenames),
    ("paths.archives", "An imported adapter has the two files that it may have, and no other", _archives),
)
