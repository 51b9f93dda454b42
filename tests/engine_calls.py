"""Requests to an engine over a tiny base, and what comes of them."""

from __future__ import annotations

from collections.abc import Iterable

from tests.workshop import Workshop
from trellis.engine import Engine, Output, Request, Sampling

GREEDY = Sampling(temperature=0.0)


def request(workshop: Workshop, name: str, prompt: str = "hello", **fields: object) -> Request:
    ids = tuple(workshop.tokenizer.encode_text(prompt))
    return Request(name, ids, **{"sampling": GREEDY, "max_tokens": 12, **fields})


def drain(engine: Engine) -> dict[str, list[Output]]:
    found: dict[str, list[Output]] = {}
    while engine.has_work:
        gather(found, engine.step())
    return found


def gather(found: dict[str, list[Output]], outputs: Iterable[Output]) -> None:
    for output in outputs:
        found.setdefault(output.request_id, []).append(output)


def ids_of(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def text_of(outputs: list[Output]) -> str:
    return "".join(output.text for output in outputs)


def alone(workshop: Workshop, wanted: Request) -> list[Output]:
    engine = workshop.engine()
    engine.submit(wanted)
    return drain(engine)[wanted.request_id]


class Clock:
    """Says what it is told to, and goes on by `ticks` each time that it is asked."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ticks = 0.0

    def __call__(self) -> float:
        self.now += self.ticks
        return self.now


def at_rest(engine: Engine) -> bool:
    """Whether nothing is held for anybody."""
    usage = engine.usage
    held = (usage.running, usage.waiting, usage.kv_blocks_used, usage.pins)
    return not engine.has_work and held == (0, 0, 0, 0)
