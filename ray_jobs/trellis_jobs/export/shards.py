"""A model's weights as files of at most so many bytes, with an index, as transformers writes and reads them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trellis.tensor_files import TensorEntry, read_tensor_header

INDEX_FILE: Final = "model.safetensors.index.json"
SHARD_BYTES: Final = 5 * 10**9
_ALIGNMENT: Final = 8


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor of the base: the file that holds it, and where."""

    path: Path
    entry: TensorEntry

    @property
    def size_bytes(self) -> int:
        """Its bytes."""
        return self.entry.end - self.entry.start


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of the model to be: its name, and its tensors in the order of their bytes."""

    name: str
    tensors: tuple[SourceTensor, ...]

    @property
    def size_bytes(self) -> int:
        """The bytes of its tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors)

    def header(self) -> bytes:
        """What the file begins with: the header's length, and the header, whose end is aligned."""
        described: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for tensor in self.tensors:
            entry, end = tensor.entry, at + tensor.size_bytes
            described[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [at, end]}
            at = end
        text = json.dumps(described, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        return len(text).to_bytes(8, "little") + text


def plan_shards(files: Sequence[Path], most_bytes: int = SHARD_BYTES) -> list[Shard]:
    """The tensors of these files, in their order, in files of at most so many bytes, or of one tensor that has more.

    Raises TensorFileError.
    """
    groups = list(_groups(_tensors(files), most_bytes))
    if len(groups) == 1:
        return [Shard("model.safetensors", tuple(groups[0]))]
    return [
        Shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group))
        for number, group in enumerate(groups, 1)
    ]


def index_json(shards: Sequence[Shard]) -> bytes:
    """The index of several files: which one holds each tensor."""
    weights = {tensor.entry.name: shard.name for shard in shards for tensor in shard.tensors}
    total = sum(shard.size_bytes for shard in shards)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weights.items()))}
    return json.dumps(index, indent=2).encode() + b"\n"


def _tensors(files: Sequence[Path]) -> Iterator[SourceTensor]:
    for path in files:
        entries = read_tensor_header(path).tensors.values()
        yield from (SourceTensor(path, entry) for entry in sorted(entries, key=lambda entry: entry.start))


def _groups(tensors: Iterator[SourceTensor], most_bytes: int) -> Iterator[list[SourceTensor]]:
    group: list[SourceTensor] = []
    size = 0
    for tensor in tensors:
        if group and size + tensor.size_bytes > most_bytes:
            yield group
            group, size = [], 0
        group.append(tensor)
        size += tensor.size_bytes
    yield group
