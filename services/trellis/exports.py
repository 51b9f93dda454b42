"""Whole models in the object store: a folder that transformers loads, and last its manifest, which says what it is."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from trellis.artifacts import MANIFEST_FILE, FileFacts
from trellis.objects import ObjectNotFoundError, ObjectStore

EXPORT_VERSION: Final = 1
FORMATS: Final = ("SAFETENSORS", "GGUF")
MAX_MANIFEST_BYTES: Final = 4 << 20
TASK_FILE: Final = "task.json"
"""Under an export's key: what its process is to do. Once it is gone, nobody wants the export any more."""
_PIECE_BYTES: Final = 1 << 20
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PART: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}"
_PATH: Final = re.compile(rf"{_PART}(?:/{_PART}){{0,3}}")


class ExportError(ValueError):
    """The files are not the whole model that was announced; `str()` says which one and why."""


@dataclass(frozen=True, slots=True)
class ExportManifest:
    """What a whole model is, and where it comes from."""

    format: str
    """One of FORMATS."""
    base_model: str
    """The base model's resource name."""
    base_revision: str
    tokenizer_digest: str
    """sha256 of tokenizer and chat template, in hex."""
    files: Mapping[str, FileFacts]
    """All files but the manifest itself, by path in the folder."""
    adapter_digest: str = ""
    """The adapter that was merged into the base; empty for a checkpoint, and for training of all weights."""
    source: str = ""
    """The resource name of the adapter, the checkpoint or the job that it is made of."""
    tuning_job: str = ""
    """The job's resource name; empty for an imported adapter."""
    spec: Mapping[str, Any] | None = None
    """The TrainSpec, as its JSON's object."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    code_version: str = ""
    version: int = EXPORT_VERSION

    def to_json(self) -> bytes:
        """The canonical bytes: sorted keys, no spaces, UTF-8."""
        values = {**asdict(self), "files": {path: asdict(facts) for path, facts in self.files.items()}}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()

    @property
    def digest(self) -> str:
        """sha256 of the canonical bytes, in hex."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """All its files together."""
        return sum(facts.size for facts in self.files.values())

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """Read what `to_json` wrote. Raises ExportError."""
        try:
            values = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _bad(f"it is not JSON ({error})") from None
        if not isinstance(values, dict) or values.get("version") != EXPORT_VERSION:
            raise _bad(f"it is not of version {EXPORT_VERSION}")
        _check_fields(values, {one.name for one in fields(cls)})
        return cls(**{**values, "files": _read_files(values["files"])})


@dataclass(frozen=True, slots=True)
class ExportTask:
    """What the process that makes an export is to do."""

    format: str
    """One of FORMATS."""
    base_model: str
    base_source: str
    """The base model's folder or hub id."""
    base_revision: str
    tokenizer_digest: str
    adapter_key: str
    """The PEFT folder in the object store."""
    source: str
    """The resource name of the adapter or checkpoint."""
    adapter_digest: str = ""
    tuning_job: str = ""
    spec: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The task as JSON."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(data))


@dataclass(frozen=True, slots=True)
class ExportFailure:
    """Why no export could be made, as its process says; `message` is a sentence for its user."""

    reason: str
    """A value of trellis.errors.Reason."""
    message: str
    again: bool = False
    """Whether another try may help."""

    def to_json(self) -> bytes:
        """The failure as JSON."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(data))


def put_folder(store: ObjectStore, prefix: str, folder: Path) -> dict[str, FileFacts]:
    """Store all files of a folder under the prefix; their facts, by path. The manifest is still to be written."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {(name := path.relative_to(folder).as_posix()): put_file(store, f"{prefix}/{name}", path) for path in paths}


def put_file(store: ObjectStore, key: str, path: Path) -> FileFacts:
    """Store a file; its facts, measured on the same bytes."""
    with path.open("rb") as source, store.writing(key) as stream:
        return _copy(source, stream.write)


def write_manifest(store: ObjectStore, prefix: str, manifest: ExportManifest) -> str:
    """Store the manifest, which makes the model whole; its digest. Comes after all files."""
    store.put_bytes(f"{prefix}/{MANIFEST_FILE}", manifest.to_json())
    return manifest.digest


def read_manifest(store: ObjectStore, prefix: str, digest: str = "") -> ExportManifest:
    """The manifest under the prefix; with `digest` it must be that one.

    Raises ObjectNotFoundError if there is none, ExportError if it is no manifest or another one.
    """
    key = f"{prefix}/{MANIFEST_FILE}"
    if store.size(key) > MAX_MANIFEST_BYTES:
        raise _bad(f"it has more than {MAX_MANIFEST_BYTES} bytes")
    data = store.read_bytes(key)
    manifest = ExportManifest.from_json(data)
    if digest and (hashlib.sha256(data).hexdigest() != digest or manifest.digest != digest):
        raise _bad(f"it does not have the digest {digest!r} that was reported")
    return manifest


def check_sizes(store: ObjectStore, prefix: str, manifest: ExportManifest) -> None:
    """See that all files are there with their sizes. Raises ExportError."""
    if not manifest.files:
        raise _bad("it names no files")
    for path, facts in manifest.files.items():
        try:
            size = store.size(f"{prefix}/{path}")
        except ObjectNotFoundError:
            raise ExportError(f"{path}, which the export's manifest names, is missing.") from None
        if size != facts.size:
            raise ExportError(f"{path} has {size} bytes, but the export's manifest says {facts.size}.")


def check_contents(
    store: ObjectStore, prefix: str, manifest: ExportManifest, going_on: Callable[[], object] | None = None
) -> None:
    """See that all files are what the manifest says, byte for byte; reads them all, a piece at a time.

    `going_on` is called after each piece, and may raise to end it. Raises ExportError.
    """
    check_sizes(store, prefix, manifest)
    for path, facts in manifest.files.items():
        digest = hashlib.sha256()
        with store.open_read(f"{prefix}/{path}") as stream:
            for piece in _pieces(stream):
                digest.update(piece)
                if going_on is not None:
                    going_on()
        if digest.hexdigest() != facts.sha256:
            raise ExportError(f"{path} does not have the sha256 that the export's manifest says.")


def _copy(source: BinaryIO, write: Callable[[bytes], object]) -> FileFacts:
    digest, size = hashlib.sha256(), 0
    for piece in _pieces(source):
        write(piece)
        digest.update(piece)
        size += len(piece)
    return FileFacts(digest.hexdigest(), size)


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    while piece := stream.read(_PIECE_BYTES):
        yield piece


def _check_fields(values: Mapping[str, Any], known: set[str]) -> None:
    if values.keys() != known:
        raise _bad(f"its fields are not exactly {', '.join(sorted(known))}")
    texts = known - {"files", "spec", "metrics", "version"}
    if wrong := sorted(name for name in texts if not isinstance(values[name], str)):
        raise _bad(f"its field {wrong[0]} is not a string")
    if values["format"] not in FORMATS:
        raise _bad(f"its format {values['format']!r} is not one of {', '.join(FORMATS)}")
    if not isinstance(values["metrics"], dict) or not isinstance(values["spec"], dict | None):
        raise _bad("its metrics or its spec are not objects")


def _read_files(files: Any) -> dict[str, FileFacts]:
    if not isinstance(files, dict):
        raise _bad("its files are not an object")
    return {path: _read_file(path, value) for path, value in files.items()}


def _read_file(path: str, value: Any) -> FileFacts:
    sound = (
        is_file_path(path)
        and isinstance(value, dict)
        and value.keys() == {"sha256", "size"}
        and isinstance(value["sha256"], str)
        and _SHA256.fullmatch(value["sha256"])
        and type(value["size"]) is int
        and value["size"] >= 0
    )
    if not sound:
        raise _bad(f"its file {path!r} has no proper path, sha256 and size")
    return FileFacts(value["sha256"], value["size"])


def error_file(number: int) -> str:
    """Where, under an export's key, the run of this number says why it failed."""
    return f"error-{number}.json"


def is_file_path(path: str) -> bool:
    """Whether it can be the path of an export's file: plain names, at most four, that stay in the folder."""
    return path != MANIFEST_FILE and _PATH.fullmatch(path) is not None


def _bad(what: str) -> ExportError:
    return ExportError(f"The export's manifest can't be used: {what}.")
