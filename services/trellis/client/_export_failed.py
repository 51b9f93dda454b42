"""What waiting for an export raises."""

from trellis.client.types import Export
from trellis.errors import TrellisError


class ExportFailed(TrellisError):
    """The export could not be made; `export` says all of it, and reason and message are those of its error."""

    def __init__(self, export: Export) -> None:
        error = export.error
        message = f"{export.name} failed: {error.message}" if error else f"{export.name} ended as {export.state}."
        super().__init__(
            (error.reason or error.status) if error else export.state.value,
            message,
            metadata=error.metadata if error else None,
        )
        self.export = export
