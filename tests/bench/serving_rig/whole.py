"""What Ray Serve, and the server with gRPC before it, take of the engine's speed."""

import asyncio
import random
import statistics
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trellis
from tests.bench.private_stack import PrivateStack, private_stack
from tests.bench.serving_rig.calls import Call, answer
from tests.bench.serving_rig.drive import Timing
from tests.bench.serving_rig.finding import Finding
from tests.bench.serving_rig.fleet import Fleet, Model
from tests.bench.serving_rig.shapes import LETTERS, text_of
from tests.bench.serving_rig.system import System
from tests.bench.serving_rig.workload import EVEN, MIXED, Ask, Workload, draw
from trellis.artifacts import MANIFEST_FILE, Manifest
from trellis.server.clusters.serve import REPLICA_SPINS, ServeCluster
from trellis.v1.engine_pb2 import StreamTokensRequest
from trellis.v1.inference_pb2 import GenerateRequest, SamplingParams

_BASE: Final = "bench"
_TENANT: Final = "bench"
_REPLICA: Final = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(REPLICA_SPINS)}
"""How threads wait in a replica that computes with several; the bare engine's must not wait otherwise."""
_ENGINE: Final = "the engine"
_SERVE: Final = "Ray Serve"
_GRPC: Final = "gRPC"
_CLAIMS: Final = (
    (_SERVE, "ray_serve_over_engine", "ray_serve_ttft_over_engine", "ray_serve_over_engine_sustained"),
    (_GRPC, "grpc_over_engine", "grpc_ttft_over_engine", "grpc_over_engine_sustained"),
)
_TURNS: Final = 3
"""So often each place of the engine is taken in a sustained run."""
_SAY = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Deployed:
    """An adapter that can be called."""

    name: str
    digest: str
    key: str
    """Where the server keeps its files."""


@dataclass(frozen=True, slots=True)
class Ways:
    """The same engine behind more and more."""

    serve: ServeCluster
    client: trellis.AsyncClient
    adapters: Sequence[Deployed]

    async def through_serve(self, ask: Ask) -> AsyncIterator[int]:
        """Serve's proxy, as the server calls it."""
        adapter = self._adapter(ask)
        sampling = SamplingParams(temperature=0)
        call = StreamTokensRequest(
            tenant_id=_TENANT,
            adapter_digest=adapter.digest,
            adapter_key=adapter.key,
            generate=GenerateRequest(prompt=text_of(ask.prompt_ids), sampling=sampling, max_tokens=ask.answer_tokens),
        )
        async for piece in self.serve.stream_tokens(_BASE, call):
            yield len(piece.generate.token_ids)

    async def through_grpc(self, ask: Ask) -> AsyncIterator[int]:
        """The SDK."""
        model, prompt = self._adapter(ask).name, text_of(ask.prompt_ids)
        async for piece in self.client.generate_stream(
            model, prompt=prompt, temperature=0.0, max_tokens=ask.answer_tokens
        ):
            yield len(piece.token_ids)

    def _adapter(self, ask: Ask) -> Deployed:
        assert ask.adapter is not None
        return self.adapters[ask.adapter]


@dataclass(frozen=True, slots=True)
class Whole:
    """A Trellis of its own beside a bare engine with the same settings."""

    fleet: Fleet
    model: Model
    adapters: int
    requests: int

    def run(self, rounds: int, say: _SAY) -> list[Finding]:
        """The same number of requests to the bare engine, through Ray Serve and through gRPC, in turn.

        First as many as run beside each other, all at once; then, sustained, requests of mixed lengths, with twice as many on
        their way as run, so that a place that falls free is taken before a caller has heard of it.
        """
        options = {"slots": self.adapters, "at_once": self.requests, "count": self.adapters}
        engine = self.fleet.trellis(self.model, _ENGINE, options, _REPLICA)
        with private_stack(say, self._settings()) as stack:
            bursts, sustained = asyncio.run(self._rounds(stack, engine, rounds, say))
        return [finding for claims in _CLAIMS for finding in _findings(*claims, bursts, sustained)]

    def _settings(self) -> Mapping[str, str]:
        options = {
            "threads": self.fleet.threads,
            "precision": "bf16",
            "bank_rows": 8 * self.adapters,
            "max_adapters": self.adapters,
            "max_running": self.requests,
            "kv_bytes": 1 << 30,
        }
        return {f"TRELLIS_ENGINE_{name.upper()}": str(value) for name, value in options.items()}

    async def _rounds(
        self, stack: PrivateStack, engine: System, rounds: int, say: _SAY
    ) -> tuple[dict[str, list[Timing]], dict[str, list[Timing]]]:
        bursts: dict[str, list[Timing]] = {_ENGINE: [], _SERVE: [], _GRPC: []}
        sustained: dict[str, list[Timing]] = {way: [] for way in bursts}
        async with self._ways(stack, say) as ways:
            calls: dict[str, Call] = {_SERVE: ways.through_serve, _GRPC: ways.through_grpc}
            for number in range(-1, rounds):
                for kind, found, draw_for in (("", bursts, self._burst), (", sustained", sustained, self._sustained)):
                    for way, timings in found.items():
                        workload = draw_for(way, number)
                        timing = engine.run(workload) if way == _ENGINE else await answer(workload, calls[way])
                        told = f"{timing.rate:.0f} tok/s, {_wait(timing):.3f} s to first token"
                        say(f"round {number + 1}{kind}: {way}: {told}")
                        if number >= 0:
                            timings.append(timing)
        return bursts, sustained

    @asynccontextmanager
    async def _ways(self, stack: PrivateStack, say: _SAY) -> AsyncIterator[Ways]:
        async with trellis.AsyncClient(stack.endpoint, api_key=stack.admin_key) as admin:
            await admin.base_models.create(_BASE, source=str(self.model.base))
        secret = stack.enrol(_TENANT)
        async with trellis.AsyncClient(stack.endpoint, api_key=secret, tenant=_TENANT) as client:
            say(f"Deploying {self.adapters} adapters …")
            names = [(await client.adapters.import_(folder, base_model=_BASE)).name for folder in self._folders()]
            for name in names:
                await client.adapters.deploy(name, wait=False)
            digests = [(await client.adapters.deploy(name)).digest for name in names]
            serve = stack.engines()
            keys = _keys(stack)
            deployed = [Deployed(name, digest, keys[digest]) for name, digest in zip(names, digests, strict=True)]
            yield Ways(serve, client, deployed)
            await serve.close()

    def _folders(self) -> list[Path]:
        return sorted(self.model.adapters.iterdir())[: self.adapters]

    def _burst(self, way: str, number: int) -> Workload:
        return draw(f"whole {way} {number}", self.requests, EVEN, self._dealt, LETTERS)

    def _sustained(self, way: str, number: int) -> Workload:
        count = _TURNS * self.requests
        drawn = draw(f"whole {number}", count, MIXED, self._dealt, LETTERS, at_once=2 * self.requests)
        # Lengths are a round's; prompts are each way's own, as a replica remembers them.
        chance = random.Random(f"whole {way} {number}")
        asks = (replace(ask, prompt_ids=tuple(chance.choices(LETTERS, k=len(ask.prompt_ids)))) for ask in drawn.asks)
        return replace(drawn, asks=tuple(asks))

    @property
    def _dealt(self) -> list[int]:
        return list(range(self.adapters))


def _keys(stack: PrivateStack) -> Mapping[str, str]:
    """Where the adapters lie in the stack's object store, by digest; only the server knows."""
    root = stack.data.objects
    found = root.glob(f"tenants/{_TENANT}/adapters/*/{MANIFEST_FILE}")
    return {Manifest.from_json(path.read_bytes()).digest: str(path.parent.relative_to(root)) for path in found}


def _findings(
    way: str,
    rate: str,
    wait: str,
    sustained_rate: str,
    bursts: Mapping[str, list[Timing]],
    sustained: Mapping[str, list[Timing]],
) -> Iterator[Finding]:
    ours, bare = bursts[way], bursts[_ENGINE]
    yield Finding.of(rate, _rates(ours), _rates(bare))
    yield Finding.of(wait, [_wait(timing) for timing in ours], [_wait(timing) for timing in bare])
    yield Finding.of(sustained_rate, _rates(sustained[way]), _rates(sustained[_ENGINE]))


def _rates(timings: Sequence[Timing]) -> list[float]:
    return [timing.rate for timing in timings]


def _wait(timing: Timing) -> float:
    return statistics.median(timing.waits)
