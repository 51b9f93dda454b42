"""What a replica is told, read once when it starts."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Self, cast

from trellis.engine_options import EngineOptions

if TYPE_CHECKING:
    from trellis.engine.limits import EngineLimits
    from trellis.engine.runner import Precision

_CPU_KV_BYTES: Final = 64 << 20
_MESSAGES: Final = 300
"""A second on a CPU, where they are sent by the cores that the model computes with (docs/adr/0006)."""
_GPU_MESSAGES: Final = 2000
_MARGIN: Final = 64
"""Calls beyond those that fit, so that it is the engine itself that refuses, with a word on when to come again."""


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
    options: EngineOptions = EngineOptions()

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> Self:
        """Read an application's args; raise ValueError for an unknown, a missing or a wrong one."""
        options = args.get("options", {})
        _expect_known(args, {f.name for f in fields(cls)})
        _expect_known(options, {f.name for f in fields(EngineOptions)})
        try:
            return cls(**{**args, "options": EngineOptions(**options)})
        except TypeError as error:
            raise ValueError(f"The engine lacks a setting: {error}.") from None

    @property
    def limits(self) -> "EngineLimits":
        """What the engine takes on at once."""
        from trellis.engine.limits import EngineLimits  # noqa: PLC0415  brings torch, which who only builds has no use for

        options = self.options
        return EngineLimits(
            max_running=options.max_running,
            max_waiting=options.max_waiting,
            tenant_room=options.tenant_room,
            step_tokens=options.step_tokens,
        )

    @property
    def precision(self) -> "Precision":
        """Of base and adapters."""
        return cast("Precision", self.options.precision)

    @property
    def device(self) -> str:
        """Where the base lies."""
        return "cuda" if self.options.gpus else "cpu"

    @property
    def kv_bytes(self) -> int:
        """Of the KV cache; 0 is for the runner to choose."""
        return self.options.kv_bytes or (0 if self.options.gpus else _CPU_KV_BYTES)

    @property
    def messages_per_second(self) -> int:
        """To all callers together; beyond, what a caller gets comes in larger pieces."""
        return _GPU_MESSAGES if self.options.gpus else _MESSAGES

    @property
    def deployment(self) -> dict[str, Any]:
        """The options of its Ray Serve deployment."""
        options = self.options
        return {
            **self._scale(),
            "max_ongoing_requests": options.max_running + options.max_waiting + _MARGIN,
            "ray_actor_options": {"num_cpus": options.cpus, "num_gpus": options.gpus},
            # Serve lets a replica that it stops finish its calls for so long, and gives it no new ones.
            "graceful_shutdown_timeout_s": options.drain_seconds,
            "graceful_shutdown_wait_loop_s": 0.5,
            # Without it the only replica is stopped before the one that takes its place is started.
            "max_surge_percent": options.surge_percent,
            "health_check_period_s": 5.0,
            "health_check_timeout_s": 60.0,
            "max_constructor_retry_count": 3,
        }

    def _scale(self) -> dict[str, Any]:
        options = self.options
        if options.min_replicas == options.max_replicas:
            return {"num_replicas": options.min_replicas}
        return {
            "autoscaling_config": {
                "min_replicas": options.min_replicas,
                "max_replicas": options.max_replicas,
                "target_ongoing_requests": options.target_requests or options.max_running,
            }
        }

    @property
    def slack(self) -> int:
        """So many calls more than the least busy replica may one have that holds the adapter: half of a full batch."""
        return max(1, self.options.max_running // 2)


def _expect_known(given: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(given.keys() - known)
    if unknown:
        raise ValueError(f"The engine has no setting {unknown[0]!r}.")
