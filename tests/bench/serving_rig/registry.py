"""Adapters in an object store, as the platform registers them."""

import os
from collections.abc import Sequence
from pathlib import Path

from trellis.artifacts import ADAPTER_FILES, MANIFEST_FILE, Manifest, file_facts
from trellis.engine import AdapterRef


def register(folder: Path, count: int, revision: str, tokenizer_digest: str, store: Path) -> Sequence[AdapterRef]:
    """`count` adapters, each with a digest of its own; weights come from the adapters in `folder`, again and again."""
    sources = sorted(path for path in folder.iterdir() if path.is_dir())
    files = [{name: file_facts(source / name) for name in ADAPTER_FILES} for source in sources]
    found = []
    for number in range(count):
        source = number % len(sources)
        manifest = Manifest(
            "baseModels/bench", revision, tokenizer_digest, files[source], code_version=f"bench {number}"
        )
        target = store / "adapters" / manifest.digest
        if not (target / MANIFEST_FILE).exists():
            _link(sources[source], target)
            (target / MANIFEST_FILE).write_bytes(manifest.to_json())
        found.append(AdapterRef(manifest.digest, f"adapters/{manifest.digest}"))
    return found


def _link(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in ADAPTER_FILES:
        if not (target / name).exists():
            os.link(source / name, target / name)
