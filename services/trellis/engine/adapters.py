"""Adapters: from the object store into the host's memory, known by their digests alone."""

import re
import tempfile
from pathlib import Path
from typing import Final

from trellis.artifacts import ADAPTER_FILES, MANIFEST_FILE, ArtifactError, Manifest, file_facts
from trellis.bases import BaseFacts
from trellis.errors import NotFound, Reason, TrellisError, error_for
from trellis.lora.bank import AdapterBank
from trellis.lora.host import HostAdapter
from trellis.lora.peft_files import read_adapter
from trellis.lora.weights import LoraWeights
from trellis.objects import ObjectNotFoundError, ObjectStore

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class AdapterLoader:
    """Loads adapters of one base model from the object store, and lets nothing pass that is not what its digest says."""

    def __init__(self, store: ObjectStore, base: BaseFacts, tokenizer_digest: str, bank: AdapterBank) -> None:
        self._store = store
        self._base = base
        self._tokenizer_digest = tokenizer_digest
        self._bank = bank

    def load(self, digest: str, key: str) -> HostAdapter:
        """Fetch the files under `key`, check them and lay the weights out as the bank has them; blocks.

        Raises NotFound when they are not there, and InvalidArgument (ADAPTER_INVALID) when they are not what the digest
        says or were made for another base.
        """
        if not _DIGEST.fullmatch(digest):
            raise _invalid(digest, "its digest is not 64 hexadecimal digits")
        manifest = self._manifest(digest, key)
        with tempfile.TemporaryDirectory(prefix="trellis-adapter-") as scratch:
            folder = Path(scratch)
            try:
                self._fetch(folder, key, manifest)
                return self._pack(read_adapter(folder, self._base, digest))
            except ObjectNotFoundError as error:
                raise _missing(digest, str(error)) from None
            except ValueError as error:  # an ArtifactError, or a module that the base does not have
                raise _invalid(digest, str(error)) from error

    def _manifest(self, digest: str, key: str) -> Manifest:
        try:
            manifest = Manifest.from_json(self._store.read_bytes(f"{key}/{MANIFEST_FILE}"))
        except ObjectNotFoundError:
            raise _missing(digest, MANIFEST_FILE) from None
        except ArtifactError as error:
            raise _invalid(digest, str(error)) from error
        if manifest.digest != digest:
            raise _invalid(digest, f"the manifest in the object store has the digest {manifest.digest}")
        if manifest.base_revision != self._base.revision:
            raise _invalid(digest, f"it was made for the base revision {manifest.base_revision}, not the one served")
        if manifest.tokenizer_digest not in {"", self._tokenizer_digest}:
            raise _invalid(digest, "it was made with another tokenizer or chat template than the one served")
        return manifest

    def _fetch(self, folder: Path, key: str, manifest: Manifest) -> None:
        for name in ADAPTER_FILES:
            self._store.get_file(f"{key}/{name}", folder / name)
            if file_facts(folder / name) != manifest.files.get(name):
                raise ArtifactError("bad_manifest", f"{name} is not the file that its manifest lists.")

    def _pack(self, weights: LoraWeights) -> HostAdapter:
        groups = tuple(group.group for group in self._bank.groups.values())
        # Only from pinned memory is a copy to a GPU one that the step before it does not wait for.
        return HostAdapter.pack(weights, groups, self._bank.dtype, pin=self._bank.device.type == "cuda")


def _invalid(digest: str, why: str) -> TrellisError:
    message = f"The adapter {digest[:24]} can't be served: {why.rstrip('.')}."
    return error_for(Reason.ADAPTER_INVALID, message, metadata={"adapter_digest": digest})


def _missing(digest: str, file: str) -> TrellisError:
    message = f"The adapter {digest[:24]} has no {file.rsplit('/', 1)[-1]} in the object store."
    return NotFound(Reason.RESOURCE_NOT_FOUND, message, metadata={"adapter_digest": digest})
