"""Every reason of the server comes out as its class, with all it says, and survives pickling."""

import pickle

import grpc
import pytest
from tests.client_rig import Rig, got, make
from tests.fake_server import FakeServer

import trellis
from trellis.client import JobFailed
from trellis.client._convert import from_proto
from trellis.client.types import TuningJob
from trellis.errors import STATUS_OF_REASON, error_for
from trellis.v1 import tuning_job_pb2


@pytest.mark.parametrize("reason", list(trellis.Reason))
async def test_each_reason_is_raised_as_its_class(rig: Rig, reason: trellis.Reason) -> None:
    sent = error_for(
        reason,
        "What is wrong, and what to do.",
        metadata={"resource": "tenants/x"},
        violations=(trellis.FieldViolation("a.b", "It must be 1."), trellis.FieldViolation("c", "It must be 2.")),
        quota_violations=(
            trellis.QuotaViolation("tenants/x", "accelerators", 2.5, 2, 1, "2 of 2.5 are held."),
            trellis.QuotaViolation("tenants/x", "open_jobs", 10, 10, 1, "10 of 10 are open."),
        ),
        retry_after=0.25 if STATUS_OF_REASON[reason].STATUS == "UNAVAILABLE" else None,
    )
    rig.server.faults.plan("GetTenant", *[sent] * 5)
    with pytest.raises(trellis.TrellisError) as caught:
        await got(rig.client.tenants.get("x"))
    error = caught.value
    assert type(error) is STATUS_OF_REASON[reason]
    assert (error.reason, str(error), error.metadata) == (reason, str(sent), sent.metadata)
    assert (error.violations, error.retry_after, error.request_id) == (sent.violations, sent.retry_after, "req-1")
    assert error.quota_violations == sent.quota_violations
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.__dict__) == (type(error), str(error), error.__dict__)


@pytest.mark.parametrize("status", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_a_bare_status_is_raised_too(rig: Rig, status: grpc.StatusCode) -> None:
    rig.server.faults.plan("GetTenant", *[status] * 5)
    with pytest.raises(trellis.TrellisError) as caught:
        await got(rig.client.tenants.get("x"))
    assert caught.value.reason == status.name
    assert type(caught.value).STATUS in {status.name, "UNKNOWN"}


async def test_a_wrong_key_is_named_neither_in_the_error_nor_in_any_repr(server: FakeServer) -> None:
    for kind in ("Client", "AsyncClient"):
        rig = make(kind, server, key="tr_wrong_key")
        with pytest.raises(trellis.Unauthenticated) as caught:
            await got(rig.client.tenants.get("x"))
        seen = f"{caught.value!r} {caught.value} {rig.client!r} {rig.client.settings!r} {rig.client.__dict__}"
        assert "tr_wrong_key" not in seen
        await rig.close()


async def test_nobody_listening_says_where_and_what_to_do(rig: Rig) -> None:
    rig.server.stop()
    with pytest.raises(trellis.Unavailable, match=rf"{rig.server.endpoint} can't be reached.*Is it running") as caught:
        await got(rig.client.tenants.get("x"))
    assert isinstance(caught.value, ConnectionError)


async def test_a_closed_client_says_so(rig: Rig) -> None:
    await rig.close()
    with pytest.raises(trellis.Cancelled, match="closed"):
        await got(rig.client.tenants.get("x"))


def test_a_failed_jobs_error_is_picklable() -> None:
    message = tuning_job_pb2.TuningJob(name="tenants/a/tuningJobs/j", state=tuning_job_pb2.TuningJob.STATE_FAILED)
    message.error.code, message.error.message = 13, "It broke."
    error = JobFailed(from_proto(TuningJob, message))
    again = pickle.loads(pickle.dumps(error))
    assert (again.job, again.reason, str(again)) == (error.job, "INTERNAL", str(error))
