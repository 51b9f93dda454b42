"""What a cluster promises, held against the one in memory, a real Ray, and Kubernetes behind a stand-in of its API."""

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.job_cluster_fake import FakeJobCluster, Script
from tests.kube.rig import connect_to, kube
from tests.kuberay_settings import LAPTOP
from tests.local_ray import TOKEN, LocalRay, local_ray

from trellis.errors import Unavailable
from trellis.local.ports import free_ports
from trellis.local.processes import marked_by
from trellis.server.app.hosts import JobCluster, RunRequest, RunStatus
from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.jobs import KubeRayCluster
from trellis.server.clusters.ray import RayJobCluster

pytestmark = pytest.mark.timeout(180)

SECONDS = 90
CPUS = 1
# Ray flushes its own line on the command only once it has started it: a program that is quick to print would be before it.
_AFTER_RAYS_LINE = "import time\nwhile 'Running entrypoint' not in open('/proc/self/fd/1', errors='replace').read(): time.sleep(0.02)\n"
_STAY = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
_DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
PROGRAMS = {
    "succeeds": ("print('hello')", Script(RunStatus.SUCCEEDED, "hello\n")),
    "fails": (
        "import sys; print('a reason'); sys.exit(3)",
        Script(RunStatus.FAILED, "a reason\n", "failed with exit code 3: a reason"),
    ),
    "prints": (
        "for n in range(2000): print('line', n)",
        Script(RunStatus.SUCCEEDED, "".join(f"line {n}\n" for n in range(2000))),
    ),
    "one long line": ("print('x' * 5000)", Script(RunStatus.SUCCEEDED, "x" * 5000 + "\n")),
    "greets": (
        "import os; print(os.environ['GREETING'], 'and', os.environ.get('OMP_NUM_THREADS'))",
        Script(RunStatus.SUCCEEDED, 'good \' "day" and 3\n'),
    ),
    "stays": (_STAY + "print('here', flush=True); time.sleep(600)", Script(RunStatus.RUNNING, "here\n")),
    "is deaf": (_DEAF + _STAY + "print('here', flush=True); time.sleep(600)", Script(RunStatus.RUNNING, "here\n")),
}


def entrypoint(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", _AFTER_RAYS_LINE + PROGRAMS[program][0])


class Case:
    """A cluster, and a way to see its processes."""

    own_cluster = False

    def __init__(self, cluster: JobCluster) -> None:
        self.cluster = cluster
        self.installation = uuid.uuid4().hex[:8]

    def request(self, program: str, name: str = "a", cpus: float = 0.1) -> RunRequest:
        run = f"trellis-{self.installation}-{name}"
        environment = {"GREETING": 'good \' "day"', "OMP_NUM_THREADS": "3", "RUN_MARKER": run}
        metadata = {"tuning_job": "tenants/a/tuningJobs/b"}
        return RunRequest(run, entrypoint(program), environment, cpus, 0.0, metadata, own_cluster=self.own_cluster)

    async def submit(self, program: str, name: str = "a", cpus: float = 0.1) -> str:
        request = self.request(program, name, cpus)
        await self.cluster.submit(request)
        return request.submission_id

    async def until(self, run: str, *statuses: RunStatus) -> str:
        """Wait until the run is in one of these states; the cluster's word on it."""
        async with asyncio.timeout(SECONDS):
            while True:
                report = await self.cluster.status(run)
                status, message = report.status, report.message
                if status in statuses:
                    return message
                ended = {RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.STOPPED}
                assert status not in ended, f"{run} is {status}: {message}"
                await asyncio.sleep(0.1)

    async def until_it_prints(self, run: str, text: str) -> None:
        async with asyncio.timeout(SECONDS):
            while text not in await self.cluster.log_tail(run, 10_000):
                await self.until(run, RunStatus.PENDING, RunStatus.RUNNING)
                await asyncio.sleep(0.1)

    def lives(self, run: str) -> bool:
        """Whether any process of the run is there."""
        assert isinstance(self.cluster, FakeJobCluster)
        return run in self.cluster.alive()

    async def until_dead(self, run: str) -> None:
        async with asyncio.timeout(SECONDS):
            while self.lives(run):
                await asyncio.sleep(0.1)

    def unreachable(self) -> RayJobCluster | KubeRayCluster | FakeJobCluster:
        """The same kind of cluster, where nothing answers."""
        assert isinstance(self.cluster, FakeJobCluster)
        self.cluster.reachable = False
        return self.cluster


class RayCase(Case):
    def lives(self, run: str) -> bool:
        return bool(marked_by({f"RUN_MARKER={run}"}))

    def unreachable(self) -> RayJobCluster | KubeRayCluster | FakeJobCluster:
        return RayJobCluster(f"http://127.0.0.1:{free_ports(1)[0]}", TOKEN)


class KubeCase(RayCase):
    own_cluster = True

    def unreachable(self) -> RayJobCluster | KubeRayCluster | FakeJobCluster:
        api = KubeApi("trellis", connect_to(f"http://127.0.0.1:{free_ports(1)[0]}"))
        return KubeRayCluster(api, LAPTOP, FakeJobCluster())


@pytest.fixture(scope="module")
def ray() -> Iterator[LocalRay]:
    with local_ray(CPUS) as started:
        yield started


@pytest.fixture
async def ray_case(ray: LocalRay) -> AsyncIterator[RayCase]:
    cluster = RayJobCluster(ray.url, TOKEN)
    case = RayCase(cluster)
    yield case
    for run in await cluster.list():
        await cluster.stop(run)
        await case.until(run, RunStatus.STOPPED, RunStatus.FAILED)
    await cluster.close()


@pytest.fixture
async def kubernetes_case(tmp_path: Path) -> AsyncIterator[KubeCase]:
    async with kube(tmp_path) as stand_in:
        cluster = KubeRayCluster(stand_in.api(), LAPTOP, FakeJobCluster())
        yield KubeCase(cluster)
        await cluster.close()


@pytest.fixture(params=["memory", "kubernetes", pytest.param("ray", marks=pytest.mark.ray)])
def case(request: pytest.FixtureRequest) -> Case:
    if request.param != "memory":
        found: Case = request.getfixturevalue(f"{request.param}_case")
        return found
    return Case(FakeJobCluster({entrypoint(name): script for name, (_, script) in PROGRAMS.items()}))


async def test_a_run_that_is_submitted_twice_runs_once(case: Case) -> None:
    first = await case.submit("succeeds")
    assert await case.submit("succeeds") == first
    await case.until(first, RunStatus.SUCCEEDED)
    assert await case.submit("succeeds") == first
    assert (await case.cluster.status(first)).status is RunStatus.SUCCEEDED
    assert (await case.cluster.log_tail(first, 10_000)).splitlines()[-1] == "hello"
    assert (await case.cluster.log_tail(first, 10_000)).count("hello") <= 2, (
        "once in the command, perhaps, and once said"
    )


async def test_an_unknown_run_is_unknown_and_no_error(case: Case) -> None:
    assert (await case.cluster.status("trellis-nobody")).status is RunStatus.UNKNOWN
    await case.cluster.stop("trellis-nobody")
    await case.cluster.forget("trellis-nobody")
    assert await case.cluster.log_tail("trellis-nobody", 100) == ""


async def test_a_failing_run_fails_and_says_why(case: Case) -> None:
    run = await case.submit("fails")
    message = await case.until(run, RunStatus.FAILED)
    assert "exit code 3" in message
    assert "a reason" in message
    assert (await case.cluster.log_tail(run, 10_000)).endswith("a reason\n")


async def test_the_environment_is_handed_over(case: Case) -> None:
    run = await case.submit("greets")
    await case.until(run, RunStatus.SUCCEEDED)
    assert (await case.cluster.log_tail(run, 10_000)).endswith('good \' "day" and 3\n')


async def test_the_end_of_the_output_begins_with_a_line(case: Case) -> None:
    run = await case.submit("prints")
    await case.until(run, RunStatus.SUCCEEDED)
    lines = (await case.cluster.log_tail(run, 50)).splitlines()
    assert lines == ["line 1996", "line 1997", "line 1998", "line 1999"]


async def test_the_end_of_one_long_line_is_kept(case: Case) -> None:
    run = await case.submit("one long line")
    await case.until(run, RunStatus.SUCCEEDED)
    assert (await case.cluster.log_tail(run, 100)).strip("\n") == "x" * 99


async def test_a_stopped_run_is_gone_with_its_children(case: Case) -> None:
    run = await case.submit("stays")
    await case.until_it_prints(run, "here\n")
    assert case.lives(run)
    await case.cluster.stop(run)
    await case.until(run, RunStatus.STOPPED)
    await case.until_dead(run)
    await case.cluster.stop(run)


async def test_a_run_that_ignores_the_signal_is_stopped_too(case: Case) -> None:
    run = await case.submit("is deaf")
    await case.until_it_prints(run, "here\n")
    await case.cluster.stop(run)
    await case.until(run, RunStatus.STOPPED)
    await case.until_dead(run)


async def test_runs_that_have_not_ended_are_listed(case: Case) -> None:
    stays, ends = await case.submit("stays", "stays"), await case.submit("succeeds", "ends")
    await case.until(stays, RunStatus.RUNNING)
    await case.until(ends, RunStatus.SUCCEEDED)
    assert await case.cluster.list() == [stays]
    await case.cluster.stop(stays)
    await case.until(stays, RunStatus.STOPPED)
    assert await case.cluster.list() == []


async def test_an_ended_run_can_be_forgotten_and_one_that_runs_can_not(case: Case) -> None:
    ends, stays = await case.submit("succeeds", "ends"), await case.submit("stays", "stays")
    await case.until(ends, RunStatus.SUCCEEDED)
    await case.cluster.forget(ends)
    await case.cluster.forget(stays)
    assert (await case.cluster.status(ends)).status is RunStatus.UNKNOWN
    assert (await case.cluster.status(stays)).status in {RunStatus.PENDING, RunStatus.RUNNING}


async def test_a_cluster_that_can_t_be_reached_says_so(case: Case) -> None:
    cluster = case.unreachable()
    with pytest.raises(Unavailable, match="can't be reached"):
        await cluster.submit(case.request("succeeds"))
    with pytest.raises(Unavailable, match="can't be reached"):
        await cluster.list()
    await cluster.close()


@pytest.mark.ray
async def test_without_the_token_nothing_is_told(ray_case: RayCase, ray: LocalRay) -> None:
    for token in ("", "wrong" * 10):
        stranger = RayJobCluster(ray.url, token)
        with pytest.raises(Unavailable):
            await stranger.status("trellis-nobody")
        with pytest.raises(Unavailable):
            await stranger.submit(ray_case.request("succeeds", "stranger"))
        await stranger.close()
    assert (
        await ray_case.cluster.status(ray_case.request("succeeds", "stranger").submission_id)
    ).status is RunStatus.UNKNOWN


@pytest.mark.ray
async def test_what_a_run_reserves_no_other_run_gets(ray_case: RayCase) -> None:
    first = await ray_case.submit("stays", "first", cpus=CPUS)
    await ray_case.until_it_prints(first, "here\n")
    second = await ray_case.submit("stays", "second", cpus=CPUS)
    assert (await ray_case.cluster.status(second)).status is RunStatus.PENDING
    assert not ray_case.lives(second)
    await ray_case.cluster.stop(first)
    await ray_case.until_it_prints(second, "here\n")
    assert (await ray_case.cluster.status(first)).status is RunStatus.STOPPED
