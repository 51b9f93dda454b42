"""Watching goes on over everything that may happen to a connection, without a gap."""

import grpc
import pytest
from tests.client_rig import Rig, all_of, first_of, got

import trellis
from trellis.v1.tuning_job_pb2 import TuningJob

NAME = "tenants/acme/tuningJobs/a"


async def job(rig: Rig, final: "TuningJob.State.ValueType" = TuningJob.STATE_SUCCEEDED) -> int:
    """A job that has ended so, and how many events it has."""
    await got(rig.client.jobs.create("support", job_id="a"))
    rig.server.jobs.finish(NAME, final)
    return len(rig.server.jobs.events[NAME])


async def sequences(rig: Rig, **options: float) -> list[int]:
    return [event.sequence for event in await all_of(rig.client.jobs.watch("a", **options))]


async def test_all_events_in_order(rig: Rig) -> None:
    count = await job(rig)
    assert await sequences(rig) == list(range(1, count + 1))
    assert await sequences(rig, after_sequence=count - 2) == [count - 1, count]


async def test_cut_streams_are_taken_up_where_they_broke(rig: Rig) -> None:
    count = await job(rig)
    rig.server.jobs.cut_watches = [3, 0, 0, 2]
    assert await sequences(rig) == list(range(1, count + 1))
    assert rig.server.jobs.after == [0, 3, 3, 3, 5]


async def test_a_restart_of_the_server_in_mid_stream(rig: Rig) -> None:
    count = await job(rig)
    rig.server.jobs.cut_watches = [4]

    def restart() -> None:
        rig.server.stop()
        rig.time.on_sleep = rig.server.start

    rig.time.on_sleep = restart
    assert await sequences(rig) == list(range(1, count + 1))
    assert len(rig.time.slept) >= 2


async def test_a_stream_that_ends_before_the_job_is_taken_up(rig: Rig) -> None:
    count = await job(rig)
    rig.server.jobs.ended_early = [5]
    rig.server.jobs.jobs[NAME].state = TuningJob.STATE_RUNNING

    def end() -> None:
        rig.server.jobs.jobs[NAME].state = TuningJob.STATE_SUCCEEDED

    rig.time.on_sleep = end
    assert await sequences(rig) == list(range(1, count + 1))


async def test_a_gap_is_noticed_and_read_again(rig: Rig) -> None:
    count = await job(rig)
    rig.server.jobs.skip = [4]
    assert await sequences(rig) == list(range(1, count + 1))
    assert rig.server.jobs.after == [0, 3]


async def test_it_gives_up_when_the_server_stays_away(rig: Rig) -> None:
    await job(rig)
    rig.server.faults.plan("WatchTuningJob", *[grpc.StatusCode.UNAVAILABLE] * 200)
    with pytest.raises(trellis.Unavailable):
        await sequences(rig)
    assert 290 < sum(rig.time.slept) <= 300


async def test_what_comes_renews_its_patience(rig: Rig) -> None:
    count = await job(rig)
    rig.server.jobs.cut_watches = [1] * count
    assert await sequences(rig) == list(range(1, count + 1))
    assert {round(seconds, 6) for seconds in rig.time.slept} == {0.075}


async def test_errors_of_the_caller_are_raised_at_once(rig: Rig) -> None:
    with pytest.raises(trellis.NotFound):
        await all_of(rig.client.jobs.watch("unknown"))
    assert rig.time.slept == []


async def test_a_watch_that_is_closed_ends_its_call(rig: Rig) -> None:
    await job(rig)
    assert len(await first_of(rig.client.jobs.watch("a"), 2)) == 2


async def test_a_timeout_ends_a_silent_watch(rig: Rig) -> None:
    await job(rig)
    rig.server.jobs.silent = True
    with pytest.raises(trellis.DeadlineExceeded) as caught:
        await sequences(rig, timeout=0.05)
    assert isinstance(caught.value, TimeoutError)


async def test_waiting_returns_the_job_that_succeeded(rig: Rig) -> None:
    await job(rig)
    rig.server.jobs.cut_watches = [2]
    done = await got(rig.client.jobs.wait("a"))
    assert done.state is trellis.JobState.SUCCEEDED


async def test_waiting_raises_the_error_of_a_failed_job(rig: Rig) -> None:
    await job(rig, TuningJob.STATE_FAILED)
    with pytest.raises(trellis.JobFailed, match="It failed three times") as caught:
        await got(rig.client.jobs.wait("a"))
    assert (caught.value.reason, caught.value.metadata) == ("ATTEMPTS_EXHAUSTED", {"attempts": "3"})
    assert caught.value.job.error is not None
    assert caught.value.job.error.status == "ABORTED"


async def test_waiting_tells_a_cancelled_job_apart(rig: Rig) -> None:
    await job(rig, TuningJob.STATE_CANCELLED)
    with pytest.raises(trellis.JobCancelled):
        await got(rig.client.jobs.wait("a"))


async def test_logs_are_taken_up_where_they_broke(rig: Rig) -> None:
    await job(rig)
    rig.server.jobs.cut_logs = [1, 0, 1]
    chunks = await all_of(rig.client.jobs.logs("a", follow=True))
    assert "".join(chunk.text for chunk in chunks) == "line 1\nline 2\nline 3\n"
    assert [chunk.text for chunk in await all_of(rig.client.jobs.logs("a", offset=2))] == ["line 3\n"]
