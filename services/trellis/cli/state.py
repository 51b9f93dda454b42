"""What the options that every command takes have said."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trellis.client import Client


@dataclass
class State:
    """The shared options of this call; the one that stands last on the command line counts."""

    output: str = "table"
    endpoint: str | None = None
    profile: str | None = None
    tenant: str | None = None
    api_key_file: Path | None = None

    @property
    def json(self) -> bool:
        """Whether the answer is to be JSON."""
        return self.output == "json"

    @cached_property
    def client(self) -> "Client":
        """The client; raises InvalidArgument or ProfileError for wrong settings."""
        from trellis.client import Client
        from trellis.client.profiles import read_key

        key = read_key(self.api_key_file) if self.api_key_file else None
        return Client(self.endpoint, key, profile=self.profile, tenant=self.tenant)
