"""What a replica is told, read once when it starts."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from trellis.engine.engine import EngineLimits
from trellis.engine.runner import Precision


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The settings of one base model's engine: the `args` of its application in Ray Serve's config."""

    base_model: str
    """The base model's resource name."""
    source: str
    """Its folder or hub id."""
    revision: str
    """The revision that was registered; another one is refused."""
    tokenizer_digest: str
    store_url: str
    """The object store that adapters come from."""
    secret_sha256: str
    """sha256, in hex, of the secret that every call must carry; the secret itself is in no config."""
    cpus: float = 0.1
    """CPUs that a replica reserves."""
    gpus: float = 0.0
    threads: int = 1
    """Threads that the model computes with."""
    replicas: int = 1
    precision: Precision = "auto"
    max_running: int = 16
    max_waiting: int = 64
    max_adapters: int = 64
    """Adapters that are kept loaded."""

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Self:
        """Read an application's args; raise ValueError for an unknown or a missing one."""
        unknown = sorted(args.keys() - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"The engine has no setting {unknown[0]!r}.")
        try:
            return cls(**args)
        except TypeError as error:
            raise ValueError(f"The engine lacks a setting: {error}.") from None

    @property
    def limits(self) -> EngineLimits:
        """What the engine takes on at once."""
        return EngineLimits(self.max_running, self.max_waiting)

    @property
    def device(self) -> str:
        """Where the base lies."""
        return "cuda" if self.gpus else "cpu"
