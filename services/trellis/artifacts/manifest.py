"""The manifest of an adapter: where it comes from and what its files are. Its sha256 is the adapter's identity."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self

from trellis.artifacts.errors import ArtifactError

MANIFEST_VERSION: Final = 1
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file's sha256, in hex, and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an adapter is. What is not known of an imported one is empty."""

    base_model: str
    """The base model's resource name."""
    base_revision: str
    tokenizer_digest: str
    """sha256 of tokenizer and chat template, in hex."""
    files: Mapping[str, FileFacts]
    """All files but the manifest itself, by name."""
    dataset_version: str = ""
    """The training dataset version's resource name."""
    dataset_sha256: str = ""
    spec: Mapping[str, Any] | None = None
    """The TrainSpec, as its JSON's object."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    code_version: str = ""
    tuning_job: str = ""
    """The job's resource name."""
    version: int = MANIFEST_VERSION

    def to_json(self) -> bytes:
        """The canonical bytes: sorted keys, no spaces, UTF-8."""
        values = {**asdict(self), "files": {name: asdict(facts) for name, facts in self.files.items()}}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()

    @property
    def digest(self) -> str:
        """sha256 of the canonical bytes, in hex: the adapter's identity."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """All its files together."""
        return sum(facts.size for facts in self.files.values())

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """Read what `to_json` wrote. Raises ArtifactError (`bad_manifest`)."""
        try:
            values = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _bad(f"it is not JSON ({error})") from None
        if not isinstance(values, dict) or values.get("version") != MANIFEST_VERSION:
            raise _bad(f"it is not of version {MANIFEST_VERSION}")
        _check_fields(values, {f.name for f in fields(cls)})
        return cls(**{**values, "files": _read_files(values["files"])})


def file_facts(path: Path) -> FileFacts:
    """The facts of the file at `path`."""
    with path.open("rb") as stream:
        return FileFacts(hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size)


def _check_fields(values: Mapping[str, Any], known: set[str]) -> None:
    if values.keys() != known:
        raise _bad(f"its fields are not exactly {', '.join(sorted(known))}")
    texts = known - {"files", "spec", "metrics", "version"}
    if wrong := sorted(name for name in texts if not isinstance(values[name], str)):
        raise _bad(f"its field {wrong[0]} is not a string")
    if not isinstance(values["metrics"], dict) or not isinstance(values["spec"], dict | None):
        raise _bad("its metrics or its spec are not objects")


def _read_files(files: Any) -> dict[str, FileFacts]:
    if not isinstance(files, dict):
        raise _bad("its files are not an object")
    return {name: _read_file(name, value) for name, value in files.items()}


def _read_file(name: str, value: Any) -> FileFacts:
    sound = (
        _FILE_NAME.fullmatch(name)
        and isinstance(value, dict)
        and value.keys() == {"sha256", "size"}
        and isinstance(value["sha256"], str)
        and _SHA256.fullmatch(value["sha256"])
        and type(value["size"]) is int
        and value["size"] >= 0
    )
    if not sound:
        raise _bad(f"its file {name!r} has no proper name, sha256 and size")
    return FileFacts(value["sha256"], value["size"])


def _bad(what: str) -> ArtifactError:
    return ArtifactError("bad_manifest", f"The adapter's manifest can't be read: {what}.")
