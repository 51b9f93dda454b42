"""Quotas over a real socket: as they go in and come back, and what is said where they leave no room."""

from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc.error_details_pb2 import PreconditionFailure, QuotaFailure, RetryInfo
from grpc_status import rpc_status
from prometheus_client import REGISTRY
from tests.rpc_server import Door, refusal
from tests.server_fakes import upload

from trellis.v1 import tenant_pb2 as pb, tuning_job_pb2, usage_pb2
from trellis.v1.tenant_pb2_grpc import TenantServiceStub
from trellis.v1.tuning_job_pb2_grpc import TuningJobServiceStub
from trellis.v1.usage_pb2_grpc import UsageServiceStub

TOKENS, DAY, MONTH = pb.Budget.METER_TOKENS, pb.Budget.PERIOD_DAY, pb.Budget.PERIOD_MONTH


@pytest.fixture
async def door(door: Door) -> Door:
    """With a dataset."""
    await upload(door.world.context, "acme")
    return door


def everything() -> pb.Quota:
    quota = pb.Quota(
        budgets=[
            pb.Budget(meter=TOKENS, period=MONTH, hard_limit=9),
            pb.Budget(meter=pb.Budget.METER_ACCELERATOR_SECONDS, period=DAY, soft_limit=0),
        ]
    )
    for number, field in enumerate(pb.Quota.DESCRIPTOR.fields):
        if field.name != "budgets":
            setattr(quota, field.name, number)
    # What it lends it must have.
    quota.accelerators = 2.5
    return quota


async def update(door: Door, quota: pb.Quota | None, *mask: str) -> pb.Tenant:
    tenant = pb.Tenant(name="tenants/acme", quota=quota)
    request = pb.UpdateTenantRequest(tenant=tenant, update_mask=FieldMask(paths=mask))
    return await TenantServiceStub(door.channel).UpdateTenant(request, metadata=door.key("admin"))


def details(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    status = rpc_status.from_call(error)
    assert status is not None
    message = kind()
    return next((message for detail in status.details if detail.Unpack(message)), None)


async def test_a_quota_comes_back_as_it_went_in(door: Door) -> None:
    stub, admin = TenantServiceStub(door.channel), door.key("admin")
    tenant = pb.Tenant(cohort="research", training_weight=2.0, quota=everything())
    made = await stub.CreateTenant(pb.CreateTenantRequest(tenant_id="initech", tenant=tenant), metadata=admin)
    assert (made.cohort, made.training_weight, made.quota) == ("research", 2.0, everything())
    assert (await update(door, everything())).quota == everything()
    member = await stub.GetTenant(pb.GetTenantRequest(name="tenants/acme"), metadata=door.key("member"))
    assert member.quota == everything()
    zeros = pb.Quota(open_jobs=0)
    changed = await update(door, zeros, "quota")
    assert changed.quota == zeros
    assert changed.quota.HasField("open_jobs")
    assert (await update(door, None, "quota")).quota == pb.Quota()


@pytest.mark.parametrize(
    ("quota", "field"),
    [
        (pb.Quota(open_jobs=-1), "tenant.quota.open_jobs"),
        (pb.Quota(accelerators=float("nan")), "tenant.quota.accelerators"),
        (pb.Quota(budgets=[pb.Budget(period=DAY, hard_limit=1)]), "tenant.quota.budgets[0].meter"),
        (pb.Quota(budgets=[pb.Budget(meter=77, period=DAY)]), "tenant.quota.budgets[0].meter"),  # type: ignore[arg-type]
    ],
    ids=["negative", "not-a-number", "no-meter", "unknown-meter"],
)
async def test_wrong_numbers_are_named(door: Door, quota: pb.Quota, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await update(door, quota)
    said = refusal(caught.value)
    assert said.code == "INVALID_ARGUMENT"
    assert [violation.field for violation in said.details["BadRequest"].field_violations] == [field]


async def test_members_do_not_set_their_own_limits(door: Door) -> None:
    request = pb.UpdateTenantRequest(tenant=pb.Tenant(name="tenants/acme", quota=pb.Quota()))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await TenantServiceStub(door.channel).UpdateTenant(request, metadata=door.key("tenant-admin"))
    assert refusal(caught.value).code == "PERMISSION_DENIED"


async def test_a_limit_that_leaves_no_room_is_said_with_its_numbers(door: Door) -> None:
    await update(door, pb.Quota(open_jobs=1))
    stub, member = TuningJobServiceStub(door.channel), door.key("member")
    request = tuning_job_pb2.CreateTuningJobRequest(parent="tenants/acme")
    request.tuning_job.training_dataset = "tenants/acme/datasets/questions"
    request.tuning_job.supervised.SetInParent()
    await stub.CreateTuningJob(request, metadata=member)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateTuningJob(request, metadata=member)
    said = refusal(caught.value)
    assert (said.code, said.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
    [violation] = details(caught.value, QuotaFailure).violations
    assert (violation.subject, violation.quota_id, violation.quota_value) == ("tenants/acme", "open_jobs", 1)
    assert violation.quota_metric == "trellis.dev/open_jobs"
    assert dict(violation.quota_dimensions) == {"allowed": "1", "used": "1", "asked": "1"}
    assert violation.description == said.message
    assert details(caught.value, RetryInfo).retry_delay.seconds > 0

    await update(door, pb.Quota(running_jobs=0))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateTuningJob(request, metadata=member)
    said = refusal(caught.value)
    assert (said.code, said.reason) == ("FAILED_PRECONDITION", "NEVER_FITS")
    assert details(caught.value, QuotaFailure).violations[0].quota_id == "running_jobs"
    assert details(caught.value, PreconditionFailure).violations[0].type == "NEVER_FITS"
    assert details(caught.value, RetryInfo) is None


async def test_what_is_used_is_shown_to_members_and_to_nobody_elses(door: Door) -> None:
    await update(
        door, pb.Quota(open_jobs=3, budgets=[pb.Budget(meter=TOKENS, period=MONTH, soft_limit=1, hard_limit=2)])
    )
    stub, request = UsageServiceStub(door.channel), usage_pb2.GetQuotaStatusRequest(name="tenants/acme")
    status = await stub.GetQuotaStatus(request, metadata=door.key("member"))
    assert (status.tenant, status.quota.open_jobs) == ("tenants/acme", 3)
    limits = {limit.limit: limit for limit in status.limits}
    assert (limits["open_jobs"].allowed, limits["open_jobs"].used) == (3, 0)
    assert not limits["dataset_bytes"].HasField("allowed")
    assert limits["dataset_bytes"].used > 0
    month = limits["budgets.tokens.month"]
    assert (month.soft, month.allowed, month.period_end_time.ToJsonString()) == (1, 2, "2026-02-01T00:00:00Z")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetQuotaStatus(request, metadata=door.key("stranger"))
    assert refusal(caught.value).code == "PERMISSION_DENIED"


async def test_refusals_are_counted_by_their_limit(door: Door) -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("trellis_quota_refusals_total", {"limit": "running_jobs"}) or 0.0

    before = count()
    await update(door, pb.Quota(running_jobs=0))
    request = tuning_job_pb2.CreateTuningJobRequest(parent="tenants/acme")
    request.tuning_job.training_dataset = "tenants/acme/datasets/questions"
    request.tuning_job.supervised.SetInParent()
    with pytest.raises(grpc.aio.AioRpcError):
        await TuningJobServiceStub(door.channel).CreateTuningJob(request, metadata=door.key("member"))
    assert count() == before + 1
