"""The inference engine: many requests for many adapters at once, on one copy of a base model."""

from trellis.engine.adapter_cache import AdapterCache
from trellis.engine.adapters import AdapterLoader, LoadedAdapter, LoraPair
from trellis.engine.engine import Engine, EngineLimits
from trellis.engine.output import Alternative, FinishReason, Output, TokenChance
from trellis.engine.request import Request, Sampling
from trellis.engine.runner import Runner

__all__ = [
    "AdapterCache",
    "AdapterLoader",
    "Alternative",
    "Engine",
    "EngineLimits",
    "FinishReason",
    "LoadedAdapter",
    "LoraPair",
    "Output",
    "Request",
    "Runner",
    "Sampling",
    "TokenChance",
]
