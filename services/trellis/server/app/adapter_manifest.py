"""The manifest that is kept with an adapter, read for a call."""

from trellis.artifacts import ArtifactError, Manifest
from trellis.errors import FailedPrecondition, Reason
from trellis.server.domain.adapter import Adapter


def manifest_of(adapter: Adapter) -> Manifest:
    """The adapter's manifest. Raises FailedPrecondition (ADAPTER_INVALID) for one that is damaged."""
    try:
        return Manifest.from_json(adapter.manifest_json)
    except ArtifactError as error:
        message = f"{adapter.name} can't be used: {error} Delete it, and import it or train it anew."
        raise FailedPrecondition(Reason.ADAPTER_INVALID, message, metadata={"code": error.code}) from error
