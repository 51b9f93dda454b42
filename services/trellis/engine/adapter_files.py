"""Adapters' files: out of the object store, and only if they are what their digest says."""

import re
from pathlib import Path
from typing import Final

from trellis.artifacts import ADAPTER_FILES, MANIFEST_FILE, ArtifactError, Manifest, file_facts
from trellis.bases import BaseFacts
from trellis.errors import NotFound, Reason, TrellisError, error_for
from trellis.objects import ObjectNotFoundError, ObjectStore

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class AdapterFiles:
    """Fetches the files of one base model's adapters."""

    def __init__(self, store: ObjectStore, base: BaseFacts, tokenizer_digest: str) -> None:
        self._store = store
        self._base = base
        self._tokenizer_digest = tokenizer_digest

    def fetch(self, digest: str, key: str, folder: Path) -> None:
        """Copy the files under `key` into the folder; blocks. What is in them is not looked at yet.

        Raises NotFound when they are not there, and InvalidArgument (ADAPTER_INVALID) when they are not what the digest
        says or were made for another base.
        """
        if not _DIGEST.fullmatch(digest):
            raise invalid(digest, "its digest is not 64 hexadecimal digits")
        manifest = self._manifest(digest, key)
        try:
            self._copy(folder, key, manifest)
        except ObjectNotFoundError as error:
            raise _missing(digest, str(error)) from None
        except ArtifactError as error:
            raise invalid(digest, str(error)) from error

    def _manifest(self, digest: str, key: str) -> Manifest:
        try:
            manifest = Manifest.from_json(self._store.read_bytes(f"{key}/{MANIFEST_FILE}"))
        except ObjectNotFoundError:
            raise _missing(digest, MANIFEST_FILE) from None
        except ArtifactError as error:
            raise invalid(digest, str(error)) from error
        if manifest.digest != digest:
            raise invalid(digest, f"the manifest in the object store has the digest {manifest.digest}")
        if manifest.base_revision != self._base.revision:
            raise invalid(digest, f"it was made for the base revision {manifest.base_revision}, not the one served")
        if manifest.tokenizer_digest not in {"", self._tokenizer_digest}:
            raise invalid(digest, "it was made with another tokenizer or chat template than the one served")
        return manifest

    def _copy(self, folder: Path, key: str, manifest: Manifest) -> None:
        for name in ADAPTER_FILES:
            self._store.get_file(f"{key}/{name}", folder / name)
            if file_facts(folder / name) != manifest.files.get(name):
                raise ArtifactError("bad_manifest", f"{name} is not the file that its manifest lists.")


def invalid(digest: str, why: str) -> TrellisError:
    """The error that says why an adapter can't be served."""
    message = f"The adapter {digest[:24]} can't be served: {why.rstrip('.')}."
    return error_for(Reason.ADAPTER_INVALID, message, metadata={"adapter_digest": digest})


def _missing(digest: str, file: str) -> TrellisError:
    message = f"The adapter {digest[:24]} has no {file.rsplit('/', 1)[-1]} in the object store."
    return NotFound(Reason.RESOURCE_NOT_FOUND, message, metadata={"adapter_digest": digest})
