"""A noisy neighbour: one tenant floods a model, the other's calls go on."""

import functools
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from trellis.client import Client
from trellis.errors import TrellisError
from trellis.isolation.stage import Stage
from trellis.isolation.verdict import Verdict

_FLOODERS: Final = 16
_CALLS: Final = 5
_GRACE_SECONDS: Final = 1.0
_Check = tuple[str, str, Callable[[Stage, Verdict], None]]


def _noise(flood_seconds: float, most_slowdown: float, stage: Stage, verdict: Verdict) -> None:
    model = stage.base_model
    stage.require_answers(model)
    alone = statistics.median(_seconds(stage.intruder.client, model) for _ in range(_CALLS))
    over, answered = threading.Event(), [0] * _FLOODERS

    def flood(number: int) -> None:
        while not over.is_set():
            try:
                stage.owner.client.generate(model, prompt=f"Noise {number} " * 40, max_tokens=64, timeout=30)
                answered[number] += 1
            except TrellisError:
                time.sleep(0.05)

    threads = [threading.Thread(target=flood, args=(number,), daemon=True) for number in range(_FLOODERS)]
    for thread in threads:
        thread.start()
    beside: list[float] = []
    until = time.monotonic() + flood_seconds
    try:
        time.sleep(min(1.0, flood_seconds / 4))
        while time.monotonic() < until or len(beside) < _CALLS:
            beside.append(_seconds(stage.intruder.client, model))
    except TrellisError as error:
        verdict.expect(False, f"A call of the quiet tenant failed beside the noise: {error}")
    finally:
        over.set()
        for thread in threads:
            thread.join(timeout=60)
    if beside:
        middle = statistics.median(beside)
        numbers = f"{alone:.2f} s alone, {middle:.2f} s beside {_FLOODERS} callers who had {sum(answered)} answers"
        verdict.expect(middle <= alone * most_slowdown + _GRACE_SECONDS, f"A call took {numbers}")
        verdict.note = f"A call took {numbers}."


def _seconds(client: Client, model: str) -> float:
    begun = time.monotonic()
    client.generate(model, prompt="Quiet.", max_tokens=8, temperature=0.0, timeout=60)
    return time.monotonic() - begun


def checks(flood_seconds: float, most_slowdown: float) -> Sequence[_Check]:
    """With how long the noise lasts, and what it may cost."""
    run = functools.partial(_noise, flood_seconds, most_slowdown)
    return (("neighbour.noise", "A tenant that floods a model does not starve the other", run),)
