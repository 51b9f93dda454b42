"""Every method with the other tenant's names, with names that nobody has, and with no key."""

from collections.abc import Mapping
from typing import Final

from trellis.access_table import CallerKind, Method, Named, Outcome, methods
from trellis.isolation.requests import name_for, request_for
from trellis.isolation.stage import Stage
from trellis.isolation.verdict import Verdict

_REFUSED = {Outcome.PERMISSION_DENIED, Outcome.IF_SHARED}


def _denied(stage: Stage, verdict: Verdict) -> None:
    for method in methods():
        for words, ids in (("the other's", stage.owner.ids), ("a made-up", {})):
            name = name_for(method, stage.owner.tenant, ids)
            answer = stage.wire.call(method, stage.intruder.key, request_for(method, name))
            expected = _expected(method, Named.OTHER)
            if expected in _REFUSED:
                verdict.expect(
                    answer.status == "PERMISSION_DENIED", f"{method.path} with {words} name {name}: {answer}"
                )


def _alike(stage: Stage, verdict: Verdict) -> None:
    for method in methods():
        if not method.access.tenant_field or _expected(method, Named.OTHER) not in _REFUSED:
            continue
        said = {_said(stage, method, stage.owner.ids), _said(stage, method, {}), _said(stage, method, _GUESSED)}
        verdict.expect(
            len(said) == 1, f"{method.path} tells what is there from what is not: {' | '.join(sorted(said))}"
        )


def _said(stage: Stage, method: Method, ids: Mapping[str, str]) -> str:
    name = name_for(method, stage.owner.tenant, ids)
    answer = stage.wire.call(method, stage.intruder.key, request_for(method, name))
    return str(answer.without({name: "…"}))


def _unknown_tenant(stage: Stage, verdict: Verdict) -> None:
    nobody = f"isolation-{stage.run_id}-nobody"
    for method in methods():
        if not method.access.tenant_field or _expected(method, Named.OTHER) not in _REFUSED:
            continue
        said = set()
        for tenant in (stage.owner.tenant, nobody):
            name = name_for(method, tenant, {})
            answer = stage.wire.call(method, stage.intruder.key, request_for(method, name))
            said.add(str(answer.without({name: "…", tenant: "…"})))
        verdict.expect(len(said) == 1, f"{method.path} tells which tenants there are: {' | '.join(sorted(said))}")


def _no_key(stage: Stage, verdict: Verdict) -> None:
    for method in methods():
        for key in ("", "trk_0000000000000000000000000000000000000000", stage.owner.key[:-1], "null"):
            name = name_for(method, stage.owner.tenant, stage.owner.ids)
            answer = stage.wire.call(method, key, request_for(method, name))
            what = "a wrong key" if key else "no key"
            verdict.expect(answer.status == "UNAUTHENTICATED", f"{method.path} with {what}: {answer}")


def _expected(method: Method, named: Named) -> Outcome:
    return method.expected(CallerKind.TENANT_ADMIN, named if method.access.tenant_field else Named.NOTHING)


_GUESSED: Final = {
    "dataset": "support",
    "tuning_job": "job-1",
    "adapter": "0123456789abcdef01234567",
    "alias": "support",
    "api_key": "key-1",
    "export": "export-1",
    "checkpoint": "1",
    "version": "f" * 64,
}
CHECKS: Final = (
    ("names.denied", "No method takes the other tenant's names, real or made up", _denied),
    ("names.alike", "A refusal does not tell whether what is named exists", _alike),
    ("names.tenants", "A refusal does not tell which tenants there are", _unknown_tenant),
    ("names.keys", "Without a key, and with a wrong one, every method is closed", _no_key),
)
