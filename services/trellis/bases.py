"""Base models as folders: what a folder or hub id holds, told from its JSON files and the headers of its weights."""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from trellis.base_cache.cache import BUCKET, VARIABLE, canonical, locate, underway
from trellis.base_cache.errors import DamagedError
from trellis.base_cache.manifest import Manifest
from trellis.base_cache.sources.source import WANTED
from trellis.tensor_files import TensorFileError, TensorHeader, read_tensor_header

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
_CONTEXT_KEYS: Final = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")
TEXT_FILES: Final = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
"""Patterns of a model's files that are not weights: its config, its tokenizer and its chat template."""
_HEADS: Final = frozenset({"lm_head", "embed_out", "output_layer", "score"})
_NOT_LINEAR: Final = ("embed", "norm", "wte", "wpe", "rotary")
_PICKLED: Final = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_INDEX: Final = "model.safetensors.index.json"
_FOLDER_DIGEST: Final = "sha256:"
ALIGNMENT: Final = 8
"""An adapter's numbers at a linear begin at a multiple of so many, so that kernels read whole vectors."""
_CHECKED: Final[dict[Path, tuple[tuple[str, int], ...]]] = {}
"""Bases of the cache that were found sound, with their files' times."""
_SAMPLES: Final = 16
_SAMPLE_BYTES: Final = 64 << 10


class BaseModelError(ValueError):
    """The base model can't be used; `str()` says why and what to do."""


class BaseModelUnreachableError(BaseModelError):
    """The hub can't be reached at present; later it may be."""


class BaseModelNotFetchedError(BaseModelUnreachableError):
    """The base is not in the cache yet, or not the whole of it."""


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """What is known of a base model without loading it."""

    path: Path
    """The folder it lies in on this machine."""
    revision: str
    """The hub's commit; of a folder `sha256:…`, over its texts, and the headers and samples of its weights."""
    architecture: str
    """The class of transformers, such as `LlamaForCausalLM`."""
    context_length: int
    """In tokens."""
    parameter_count: int
    vocabulary_size: int
    linear_shapes: Mapping[str, tuple[int, int]]
    """By module path, such as `model.layers.0.self_attn.q_proj`: (out_features, in_features) of each linear that an
    adapter may change; the output head is not among them."""
    has_chat_template: bool

    @property
    def linear_names(self) -> tuple[str, ...]:
        """The last parts of the linears' paths, such as `q_proj`, each once, sorted."""
        return tuple(sorted({path.rsplit(".", 1)[-1] for path in self.linear_shapes}))

    def linears(self, name: str) -> frozenset[str]:
        """The paths that a target module of this name means: its own, and those that end with it."""
        return frozenset(path for path in self.linear_shapes if f".{path}".endswith(f".{name}"))

    def share_of(self, names: Collection[str]) -> float:
        """The part that an adapter's numbers on these linears are of those of one of the same rank on all linears."""
        adapted = frozenset[str]().union(*map(self.linears, names))
        numbers = {path: -(-sum(shape) // ALIGNMENT) * ALIGNMENT for path, shape in self.linear_shapes.items()}
        return sum(numbers[path] for path in adapted) / max(1, sum(numbers.values()))


def read_base(source: str, revision: str = "") -> BaseFacts:
    """The facts of the base model in the folder `source`, or of the hub id `source`, which is downloaded first.

    Where TRELLIS_BASE_CACHE names a cache, hub ids and `s3://bucket/prefix` are read from it, and nothing is downloaded.
    With `revision` it must be that one; without, it is what the cache was given last, or the hub's newest. Raises
    BaseModelError; BaseModelNotFetchedError for what may come into the cache yet.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        facts = _read_folder(folder.resolve(), "")
        if revision and facts.revision != revision:
            message = (
                f"The folder {source!r} is no longer the base model that was registered: its files have the digest"
            )
            raise BaseModelError(f"{message} {facts.revision}, not {revision}. Restore them, or register it anew.")
        return facts
    cache = os.environ.get(VARIABLE, "").strip()
    if cache and (found := _read_cached(source, revision, Path(cache).expanduser())):
        return found
    if source.startswith(BUCKET):
        raise BaseModelError(f"{source!r} is read from a cache alone: {VARIABLE} must name its folder.")
    if revision.startswith(_FOLDER_DIGEST) or not _HUB_ID.fullmatch(source):
        raise BaseModelError(f"There is no folder {source!r} on this machine. Give the folder of a model, or a hub id.")
    path = _download(source, revision)
    return _read_folder(path, path.name)


def _read_cached(source: str, revision: str, cache: Path) -> BaseFacts | None:
    """The facts of a base in the cache; None for a source that no cache can have."""
    try:
        folder = locate(source, revision, cache)
    except DamagedError as error:
        raise BaseModelNotFetchedError(f"In the cache of base models, {error}") from None
    if folder is not None:
        return _read_checked(folder, Manifest.read(folder))
    if not source.startswith(BUCKET) and not _HUB_ID.fullmatch(source):
        return None
    name = f"{canonical(source)!r} in revision {revision}" if revision else f"{canonical(source)!r}"
    if how_far := underway(source, cache):
        raise BaseModelNotFetchedError(f"{name} is not in the cache {str(cache)!r} yet: {how_far}.")
    command = f"python -m trellis.base_cache {source}" + (f" --revision {revision}" if revision else "")
    raise BaseModelNotFetchedError(f"{name} is not in the cache {str(cache)!r}. Fetch it first: {command}")


def _read_checked(folder: Path, manifest: Manifest) -> BaseFacts:
    """Of a whole base in the cache, whose samples are looked at once in this process as long as no file changes."""
    mark = tuple((file.name, (folder / file.name).stat().st_mtime_ns) for file in manifest.files)
    if _CHECKED.get(folder) != mark:
        if (digest := folder_digest(folder)) != manifest.digest:
            message = f"{str(folder)!r} is no longer what was fetched: its digest is {digest}, not {manifest.digest}"
            raise BaseModelNotFetchedError(f"{message}. Fetch it again, with --verify.")
        _CHECKED[folder] = mark
    return _read_folder(folder, manifest.revision)


def _download(hub_id: str, revision: str) -> Path:
    try:
        return Path(snapshot_download(hub_id, revision=revision or None, allow_patterns=list(WANTED)))
    except GatedRepoError:
        raise BaseModelError(f"{hub_id!r} needs its owner's permission: set HF_TOKEN to a token that has it.") from None
    except RevisionNotFoundError:
        raise BaseModelError(f"{hub_id!r} has no revision {revision!r} on the hub.") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise BaseModelError(f"{hub_id!r} is neither a folder on this machine nor a model on the hub.") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        message = f"{hub_id!r} is no folder on this machine, and the hub can't be reached ({reason})."
        raise BaseModelUnreachableError(f"{message} Give a local folder, or download the model first.") from None


def _read_folder(folder: Path, commit: str) -> BaseFacts:
    config = check_config(folder)
    headers = _read_headers(folder)
    text = config.get("text_config") or config
    return BaseFacts(
        path=folder,
        revision=commit or _digest(folder, headers),
        architecture=config["architectures"][0],
        context_length=_context_length(text, folder),
        parameter_count=sum(tensor.size for header in headers.values() for tensor in header.tensors.values()),
        vocabulary_size=_count(text, ("vocab_size",), folder),
        linear_shapes=_linear_shapes(headers.values(), folder),
        has_chat_template=_has_chat_template(folder),
    )


def check_config(folder: Path) -> dict[str, Any]:
    """The model's config; raises BaseModelError when it says that the model can't be used."""
    config = _read_json(folder / "config.json", "so it is not a model of transformers")
    _check_supported(config, folder)
    return config


def folder_digest(folder: Path) -> str:
    """`sha256:…` over a folder's texts, and the headers and samples of its weights. Raises BaseModelError."""
    return _digest(folder, _read_headers(folder))


def _read_headers(folder: Path) -> dict[str, TensorHeader]:
    return {path.name: _read_header(path) for path in weight_files(folder)}


def _read_json(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BaseModelError(f"The folder {str(path.parent)!r} has no {path.name}, {otherwise}.") from None
    except (ValueError, RecursionError, OSError) as error:
        raise BaseModelError(f"{str(path)!r} can't be read as JSON ({error}).") from None
    if not isinstance(value, dict):
        raise BaseModelError(f"{str(path)!r} is not a JSON object.")
    return value


def _read_header(path: Path) -> TensorHeader:
    try:
        return read_tensor_header(path)
    except FileNotFoundError:
        raise BaseModelError(f"The weights' file {str(path)!r}, which the index names, is missing.") from None
    except TensorFileError as error:
        raise BaseModelError(f"In {str(path.parent)!r}: {error}") from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the model of a folder, by name. Raises BaseModelError."""
    if (folder / _INDEX).is_file():
        shards = _read_json(folder / _INDEX, "").get("weight_map")
        if not isinstance(shards, dict) or not all(_is_plain_name(name) for name in shards.values()):
            raise BaseModelError(f"{str(folder / _INDEX)!r} does not say in which files of its folder the weights are.")
        return [folder / name for name in sorted(set(shards.values()))]
    found = [folder / "model.safetensors"] if (folder / "model.safetensors").is_file() else []
    found = found or sorted(folder.glob("*.safetensors"))
    if found:
        return found
    if any(path.suffix in _PICKLED for path in folder.iterdir()):
        message = f"The weights in {str(folder)!r} are pickle files, which can run code and are not read."
        raise BaseModelError(f"{message} Save the model as safetensors.")
    raise BaseModelError(f"The folder {str(folder)!r} has no weights: no *.safetensors file.")


def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def _check_supported(config: Mapping[str, Any], folder: Path) -> None:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise BaseModelError(f"{str(folder / 'config.json')!r} names no architecture.")
    if not names[0].endswith("ForCausalLM"):
        raise BaseModelError(f"{names[0]} is not supported: a base must be a Llama-like causal language model.")
    if config.get("quantization_config"):
        raise BaseModelError(f"The weights in {str(folder)!r} are quantized; give the model's original weights.")
    if config.get("auto_map"):
        raise BaseModelError(f"The model in {str(folder)!r} needs code of its own, which is never run.")


def _context_length(config: Mapping[str, Any], folder: Path) -> int:
    return _count(config, _CONTEXT_KEYS, folder)


def _count(config: Mapping[str, Any], keys: Sequence[str], folder: Path) -> int:
    for key in keys:
        value = config.get(key)
        if type(value) is int and value > 0:
            return value
    raise BaseModelError(f"{str(folder / 'config.json')!r} has no {keys[0]}.")


def _linear_shapes(headers: Iterable[TensorHeader], folder: Path) -> dict[str, tuple[int, int]]:
    found = {
        tensor.name.removesuffix(".weight"): (tensor.shape[0], tensor.shape[1])
        for header in headers
        for tensor in header.tensors.values()
        if tensor.name.endswith(".weight") and len(tensor.shape) == 2 and _adaptable(tensor.name)
    }
    if not found:
        raise BaseModelError(f"The weights in {str(folder)!r} have no linear module that an adapter could change.")
    return dict(sorted(found.items()))


def _adaptable(tensor: str) -> bool:
    module = tensor.removesuffix(".weight").rsplit(".", 1)[-1]
    return module not in _HEADS and not any(part in module for part in _NOT_LINEAR)


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(_read_json(path, "").get("chat_template"))


def _digest(folder: Path, headers: Mapping[str, TensorHeader]) -> str:
    digest = hashlib.sha256()
    for path in sorted({path for pattern in TEXT_FILES for path in folder.glob(pattern) if path.is_file()}):
        _add(digest, path.name.encode(), path.read_bytes())
    for name, header in sorted(headers.items()):
        _add(digest, name.encode(), str(header.file_size).encode(), header.raw, *_samples(folder / name, header))
    return _FOLDER_DIGEST + digest.hexdigest()


def _samples(path: Path, header: TensorHeader) -> Iterator[bytes]:
    """Pieces spread over the file: training on changes them all, and reading a large file whole takes minutes."""
    with path.open("rb") as stream:
        for number in range(_SAMPLES):
            stream.seek(header.file_size * number // _SAMPLES)
            yield stream.read(_SAMPLE_BYTES)


def _add(digest: Any, *parts: bytes) -> None:
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
