"""Quotas under many calls at once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from trellis.client.types import Quota
from trellis.errors import ResourceExhausted, TrellisError
from trellis.isolation.stage import Stage
from trellis.isolation.verdict import Verdict

_AT_ONCE: Final = 16
_LIMIT: Final = 3
_PER_MINUTE: Final = 4


def _parallel_submits(stage: Stage, verdict: Verdict) -> None:
    party = stage.intruder
    before = sum(not job.state.ended for job in party.client.jobs.list())
    stage.admin.tenants.update(party.parent, quota=Quota(open_jobs=before + _LIMIT))

    def submit(_: int) -> str:
        try:
            return party.client.jobs.create("canary").name
        except ResourceExhausted as error:
            return "" if error.reason == "QUOTA_EXCEEDED" else f"! {error}"
        except TrellisError as error:
            return f"! {error}"

    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            said = list(pool.map(submit, range(_AT_ONCE)))
        wrong = [text for text in said if text.startswith("!")]
        accepted = [name for name in said if name and not name.startswith("!")]
        verdict.expect(not wrong, f"A submit was refused for another reason: {wrong[:1]}")
        verdict.expect(
            len(accepted) == _LIMIT, f"{len(accepted)} of {_AT_ONCE} submits were accepted at a limit of {_LIMIT}"
        )
        for name in accepted:
            party.client.jobs.cancel(name)
    finally:
        stage.admin.tenants.update(party.parent, quota=Quota())
    verdict.note = f"{_LIMIT} of {_AT_ONCE} submits at once were accepted at a limit of {_LIMIT}, the others refused."


def _other_tenants_limit(stage: Stage, verdict: Verdict) -> None:
    stage.admin.tenants.update(stage.intruder.parent, quota=Quota(open_jobs=0))
    try:
        job = stage.owner.client.jobs.create("canary")
        verdict.expect(job.name.startswith(stage.owner.parent), f"{job.name} is not the owner's")
        stage.owner.client.jobs.cancel(job.name)
    finally:
        stage.admin.tenants.update(stage.intruder.parent, quota=Quota())
    try:
        stage.intruder.client.tenants.update(stage.intruder.parent, quota=replace(Quota(), open_jobs=10**6))
        verdict.expect(False, "A tenant's admin changed the tenant's own quota")
    except TrellisError as error:
        verdict.expect(error.STATUS == "PERMISSION_DENIED", f"A tenant's admin changing its own quota: {error}")


def _parallel_calls(stage: Stage, verdict: Verdict) -> None:
    party, model = stage.intruder, stage.base_model
    stage.require_answers(model)
    stage.admin.tenants.update(party.parent, quota=Quota(requests_per_minute=_PER_MINUTE))

    def call(_: int) -> str:
        try:
            party.client.generate(model, prompt="hello", max_tokens=1, timeout=8)
        except TrellisError as error:
            return error.reason or error.STATUS
        return "OK"

    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            said = list(pool.map(call, range(_AT_ONCE)))
    finally:
        stage.admin.tenants.update(party.parent, quota=Quota())
    # One more may have come in while the others waited: the bucket fills as time goes by.
    answered = said.count("OK")
    verdict.expect(
        answered <= _PER_MINUTE + 2, f"{answered} of {_AT_ONCE} calls were answered at {_PER_MINUTE} a minute"
    )
    others = sorted(set(said) - {"OK", "RATE_LIMITED", "DEADLINE_EXCEEDED"})
    verdict.expect(not others, f"Calls were refused for other reasons: {', '.join(others)}")
    verdict.note = (
        f"{answered} of {_AT_ONCE} calls at once were answered at {_PER_MINUTE} a minute, the others told to wait."
    )


CHECKS: Final = (
    ("quotas.submits", "Submits at once do not get past the limit of open jobs", _parallel_submits),
    ("quotas.apart", "A tenant's limits are its own, and only the platform's admins change them", _other_tenants_limit),
    ("quotas.calls", "Calls of models at once do not get past the limit a minute", _parallel_calls),
)
