"""What an engine remembers of prompts: never for another tenant."""

import secrets
from typing import Final

from trellis.client import Client
from trellis.errors import PermissionDenied
from trellis.isolation.stage import Stage
from trellis.isolation.verdict import SkippedError, Verdict

_WORDS: Final = 150


def _prompt() -> str:
    return " ".join(f"{secrets.randbelow(10_000)}" for _ in range(_WORDS))


def _base(stage: Stage, verdict: Verdict) -> None:
    _same_prompt(stage, verdict, stage.base_model)


def _adapter(stage: Stage, verdict: Verdict) -> None:
    if stage.owner.why_untuned:
        raise SkippedError(f"{stage.owner.tenant}: {stage.owner.why_untuned}")
    stage.owner.client.adapters.share(stage.owner.adapter, stage.intruder.parent)
    try:
        _same_prompt(stage, verdict, stage.owner.alias)
    finally:
        stage.owner.client.adapters.unshare(stage.owner.adapter, stage.intruder.parent)
    for model in (stage.owner.alias, stage.owner.adapter):
        try:
            stage.intruder.client.generate(model, prompt="once more", max_tokens=2)
            verdict.expect(False, f"{model} still answers the guest after its share was revoked")
        except PermissionDenied:
            verdict.expect(True, "")


def _same_prompt(stage: Stage, verdict: Verdict, model: str) -> None:
    stage.require_answers(model)
    prompt = _prompt()
    _cached(stage.owner.client, model, prompt)
    own = _cached(stage.owner.client, model, prompt)
    other = _cached(stage.intruder.client, model, prompt)
    verdict.expect(
        other == 0, f"{model}: of {stage.owner.tenant}'s prompt {other} tokens were remembered for the other"
    )
    back = _cached(stage.owner.client, model, prompt)
    verdict.expect(back >= own, f"{model}: {stage.owner.tenant} lost what was remembered for it")
    same = "Its own tenant's second call found {} of them, so that there was something to find."
    none = "This engine remembers no prompts, so that nothing was there to find."
    verdict.note = f"{model}: no token of the other's prompt was remembered. {same.format(own) if own else none}"


def _cached(client: Client, model: str, prompt: str) -> int:
    return client.generate(model, prompt=prompt, max_tokens=1, temperature=0.0, timeout=60).usage.cached_prompt_tokens


CHECKS: Final = (
    ("caches.base", "What is remembered of a prompt on the base serves its own tenant alone", _base),
    ("caches.adapter", "The same with an adapter that both may call; and an ended share opens nothing", _adapter),
)
