"""The inference engine: many requests for many adapters at once, on one copy of a base model."""

from trellis.engine.adapters import AdapterLoader
from trellis.engine.engine import Engine
from trellis.engine.grammar import GrammarCompiler
from trellis.engine.limits import EngineLimits
from trellis.engine.output import Alternative, FinishReason, Output, TokenChance
from trellis.engine.request import AdapterRef, Request, ResponseFormat, Sampling
from trellis.engine.runner import Runner, RunnerLimits
from trellis.engine.tiers import AdapterTiers, TierEvent
from trellis.engine.usage import EngineUsage, StepSize

__all__ = [
    "AdapterLoader",
    "AdapterRef",
    "AdapterTiers",
    "Alternative",
    "Engine",
    "EngineLimits",
    "EngineUsage",
    "FinishReason",
    "GrammarCompiler",
    "Output",
    "Request",
    "ResponseFormat",
    "Runner",
    "RunnerLimits",
    "Sampling",
    "StepSize",
    "TierEvent",
    "TokenChance",
]
