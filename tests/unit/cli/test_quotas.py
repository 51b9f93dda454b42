"""What a tenant may have, on the command line."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.fake_server import FakeServer
from tests.unit.cli.conftest import Ran

from trellis.v1.usage_pb2 import LimitStatus

Run = Callable[..., Ran]


def quota(ran: Ran) -> dict[str, Any]:
    """The limits that are set."""
    return {name: value for name, value in ran.json["quota"].items() if value not in (None, [])}


def test_limits_are_set_changed_one_by_one_and_lifted(trellis: Run) -> None:
    made = trellis(
        *("tenants", "create", "acme", "--cohort", "research", "--training-weight", "2", "--format", "json"),
        *("--accelerators", "2.5", "--running-jobs", "4", "--dataset-bytes", "20GiB", "--max-priority", "-5"),
        *("--budget", "accelerator-seconds/month=80000:100000", "--budget", "tokens/day=:5"),
    )
    month = {"meter": "ACCELERATOR_SECONDS", "period": "MONTH", "soft_limit": 80000, "hard_limit": 100000}
    day = {"meter": "TOKENS", "period": "DAY", "soft_limit": None, "hard_limit": 5}
    limits = {"accelerators": 2.5, "running_jobs": 4, "dataset_bytes": 20 * 2**30, "max_priority": -5}
    assert quota(made) == {**limits, "budgets": [month, day]}
    assert (made.json["cohort"], made.json["training_weight"]) == ("research", 2.0)

    changed = trellis(
        *("tenants", "update", "acme", "--format", "json", "--running-jobs", "none", "--open-jobs", "0"),
        *("--budget", "tokens/day=7:", "--budget", "accelerator-seconds/month=none", "--cohort", ""),
    )
    kept = {"accelerators": 2.5, "dataset_bytes": 20 * 2**30, "max_priority": -5, "open_jobs": 0}
    assert quota(changed) == {**kept, "budgets": [{**day, "soft_limit": 7, "hard_limit": None}]}
    assert changed.json["cohort"] == ""
    weighed = trellis("tenants", "update", "acme", "--training-weight", "3", "--format", "json")
    assert quota(weighed) == quota(changed)


def test_a_change_of_the_quota_goes_by_the_etag_that_was_read(trellis: Run, server: FakeServer) -> None:
    trellis("tenants", "create", "acme")
    sent = []
    answer = server.tenants.UpdateTenant

    def update(request: Any, context: Any) -> Any:
        sent.append(request.tenant.etag)
        return answer(request, context)

    server.tenants.UpdateTenant = update  # type: ignore[method-assign]
    server.stop()
    server.start()
    assert trellis("tenants", "update", "acme", "--open-jobs", "3").code == 0
    assert trellis("tenants", "update", "acme", "--display-name", "A").code == 0
    assert sent == ["1", ""]


@pytest.mark.parametrize(
    "option",
    [
        ("--accelerators", "some"),
        ("--running-jobs", "1.5"),
        ("--dataset-bytes", "20 parsecs"),
        ("--budget", "tokens/year=1:2"),
        ("--budget", "tokens/day=:"),
        ("--budget", "tokens/day"),
    ],
)
def test_what_is_no_limit_is_refused_before_any_call(trellis: Run, server: FakeServer, option: tuple[str, str]) -> None:
    ran = trellis("tenants", "update", "acme", *option)
    assert (ran.code, server.faults.calls) == (2, [])
    assert option[0] in ran.err


def test_what_is_used_of_each_limit_is_shown(trellis: Run, server: FakeServer) -> None:
    trellis("tenants", "create", "acme", "--open-jobs", "10")
    server.usage.limits = [
        LimitStatus(limit="open_jobs", allowed=10, used=3),
        LimitStatus(limit="dataset_bytes", used=21474836480, held=5),
        LimitStatus(limit="budgets.tokens.month", allowed=2_500_000, soft=2e6, used=1_234_567.5, held=9),
    ]
    server.usage.limits[2].period_end_time.FromJsonString("2026-02-01T00:00:00Z")
    shown = [line.split() for line in trellis("tenants", "quota").out.splitlines()]
    assert shown[0] == ["LIMIT", "ALLOWED", "SOFT", "USED", "HELD", "PERIOD", "END"]
    assert shown[1] == ["open_jobs", "10", "-", "3", "0", "-"]
    assert shown[2] == ["dataset_bytes", "-", "-", "21474836480", "5", "-"]
    assert shown[3][:5] == ["budgets.tokens.month", "2500000", "2000000", "1234567.5", "9"]
    status = trellis("tenants", "quota", "acme", "--format", "json").json
    assert (status["tenant"], status["quota"]["open_jobs"]) == ("tenants/acme", 10)
    assert status["limits"][0] == {
        "limit": "open_jobs", "allowed": 10.0, "soft": None, "used": 3.0, "held": 0.0, "period_end_time": None
    }  # fmt: skip
    assert trellis("tenants", "quota", "nobody").code == 1
