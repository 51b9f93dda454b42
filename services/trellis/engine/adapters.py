"""Adapters: from the object store into the host's memory, known by their digests alone."""

import tempfile
from pathlib import Path

from trellis.artifacts import ArtifactError
from trellis.bases import BaseFacts
from trellis.engine.adapter_files import AdapterFiles, invalid
from trellis.lora.bank import AdapterBank
from trellis.lora.host import HostAdapter
from trellis.lora.peft_files import read_adapter
from trellis.lora.weights import LoraWeights
from trellis.objects import ObjectStore


class AdapterLoader:
    """Loads adapters of one base model from the object store, and lets nothing pass that is not what its digest says."""

    def __init__(self, store: ObjectStore, base: BaseFacts, tokenizer_digest: str, bank: AdapterBank) -> None:
        self._files = AdapterFiles(store, base, tokenizer_digest)
        self._base = base
        self._bank = bank

    def load(self, digest: str, key: str) -> HostAdapter:
        """Fetch the files under `key`, check them and lay the weights out as the bank has them; blocks.

        Raises NotFound when they are not there, and InvalidArgument (ADAPTER_INVALID) when they are not what the digest
        says or were made for another base.
        """
        with tempfile.TemporaryDirectory(prefix="trellis-adapter-") as scratch:
            folder = Path(scratch)
            self._files.fetch(digest, key, folder)
            try:
                return self._pack(read_adapter(folder, self._base, digest))
            except ArtifactError as error:
                raise invalid(digest, str(error)) from error

    def _pack(self, weights: LoraWeights) -> HostAdapter:
        groups = tuple(group.group for group in self._bank.groups.values())
        # Only from pinned memory is a copy to a GPU one that the step before it does not wait for.
        return HostAdapter.pack(weights, groups, self._bank.dtype, pin=self._bank.device.type == "cuda")
