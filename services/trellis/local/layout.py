"""Where things are in a data folder."""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/trellis`, that is `~/.local/share/trellis` unless it is set."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "trellis"


@dataclass(frozen=True, slots=True)
class DataDir:
    """A data folder; all that must outlive the processes is in it."""

    root: Path

    @property
    def admin_key(self) -> Path:
        """The first admin's key, readable by its owner alone."""
        return self.root / "admin.key"

    @property
    def server_secret(self) -> Path:
        """What tokens are derived from."""
        return self.root / "server.secret"

    @property
    def database_url(self) -> str:
        """The SQLite database."""
        return f"sqlite+aiosqlite:///{self.root / 'trellis.db'}"

    @property
    def objects(self) -> Path:
        """The object store."""
        return self.root / "objects"

    @property
    def logs(self) -> Path:
        """What the processes print."""
        return self.root / "logs"

    @property
    def lock(self) -> Path:
        """Held by the one `trellis up` that runs over this folder."""
        return self.root / "up.lock"

    @property
    def state(self) -> Path:
        """What runs now: process id and ports, as JSON."""
        return self.root / "up.json"

    @property
    def marker(self) -> str:
        """In the environment of every process that was started over this folder, so that none is left behind."""
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:16]

    @property
    def ray_dir(self) -> Path:
        """Ray's own folder; short and outside, because paths of Unix sockets may have 107 bytes at most."""
        return Path(tempfile.gettempdir()) / f"trellis-{self.marker[:8]}"

    def create(self) -> None:
        """Makes the folders, for the owner alone."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self.objects, self.logs):
            folder.mkdir(exist_ok=True, mode=0o700)
