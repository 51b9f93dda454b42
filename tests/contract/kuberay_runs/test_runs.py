"""A run on Kubernetes from its submission to its end, with servers that die, race and come late."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.contract.kuberay_runs.rig import ENDED, Servers, printing, until, until_in, until_it_prints
from tests.kube.faults import Fault
from tests.kuberay_settings import LAPTOP, a_run

from trellis.errors import Unavailable
from trellis.server.app.hosts import RunStatus
from trellis.server.clusters.kuberay.refusals import Refused
from trellis.server.clusters.kuberay.resources import CONFIG_MAPS, NETWORK_POLICIES, PODS, RAY_JOBS, SECRETS
from trellis.server.domain.run_trouble import TroubleCode

QUEUED = replace(LAPTOP, jobs=replace(LAPTOP.jobs, queue="training"))


class TestSubmitting:
    async def test_what_is_made_belongs_to_the_installation_and_goes_with_it(self, servers: Servers) -> None:
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "trellis-ray"}}
        servers.kube.store.create(CONFIG_MAPS, "trellis", owner)
        cluster, run = (
            servers.new(replace(LAPTOP, owner="trellis-ray", network_policies=True)),
            printing("x", seconds=60),
        )
        await cluster.submit(run)
        await until_in(cluster, run, RunStatus.RUNNING)
        assert servers.names("NetworkPolicy") == servers.names("Secret") == [run.submission_id]
        made = [verb for verb in servers.kube.server.asked if verb[2] == "create"]
        assert [resource for _, resource, _ in made] == ["rayjobs", "networkpolicies", "secrets"]
        servers.kube.store.delete(CONFIG_MAPS, "trellis", "trellis-ray")
        await until(
            lambda: not any(map(servers.names, ("RayJob", "RayCluster", "Secret", "Pod", "Job", "NetworkPolicy")))
        )

    async def test_an_owner_that_is_missing_is_named(self, servers: Servers) -> None:
        with pytest.raises(Unavailable, match=r"no ConfigMap 'gone'.*TRELLIS_KUBERAY_FILE"):
            await servers.new(replace(LAPTOP, owner="gone")).submit(printing("x"))
        assert servers.names("RayJob") == []

    async def test_two_servers_at_once_start_it_once(self, servers: Servers) -> None:
        one, other, run = servers.new(), servers.new(), printing("once")
        await asyncio.gather(one.submit(run), other.submit(run))
        await until_in(one, run, RunStatus.SUCCEEDED)
        await until_in(other, run, RunStatus.SUCCEEDED)
        assert servers.kube.operator.started == [run.submission_id]

    async def test_an_answer_that_is_lost_is_no_second_run(self, servers: Servers) -> None:
        cluster, run = servers.new(), printing("once")
        servers.kube.faults.plan("create", "rayjobs", Fault(loses_answer=True))
        with pytest.raises(Unavailable, match="can't be reached"):
            await cluster.submit(run)
        assert servers.names("RayJob") == [run.submission_id]
        assert len([verb for verb in servers.kube.server.asked if verb[1:] == ("rayjobs", "create")]) == 1, (
            "who writes looks again first"
        )
        await cluster.submit(run)
        await until_in(cluster, run, RunStatus.SUCCEEDED)
        assert servers.kube.operator.started == [run.submission_id]

    async def test_one_that_was_submitted_by_half_is_submitted_again(self, servers: Servers) -> None:
        one, other, run = servers.new(), servers.new(), printing("whole")
        servers.kube.faults.plan("create", "secrets", Fault(status=500))
        with pytest.raises(Unavailable, match="answered 500"):
            await one.submit(run)
        # Its pods wait for the Secret; the loop that starts runs asks, and another server goes on.
        assert (await other.status(run.submission_id)).status is RunStatus.UNKNOWN
        assert await other.list() == [run.submission_id], "so that it can be stopped, should nobody want it any more"
        await other.submit(run)
        await until_in(other, run, RunStatus.SUCCEEDED)
        assert servers.kube.operator.started == [run.submission_id]

    async def test_one_that_was_submitted_by_half_can_be_forgotten(self, servers: Servers) -> None:
        cluster, run = servers.new(), printing("never")
        servers.kube.faults.plan("create", "secrets", Fault(status=500))
        with pytest.raises(Unavailable):
            await cluster.submit(run)
        await until(lambda: servers.names("Pod") != [])
        await cluster.forget(run.submission_id)
        await until(lambda: not any(map(servers.names, ("RayJob", "RayCluster", "Pod"))))
        assert servers.kube.operator.started == []

    async def test_one_that_was_stopped_meanwhile_does_not_come_back(self, servers: Servers) -> None:
        slow, other, run = servers.new(), servers.new(), printing("never")
        servers.kube.faults.plan("create", "secrets", Fault(status=500))
        with pytest.raises(Unavailable):
            await slow.submit(run)
        await other.stop(run.submission_id)
        await slow.submit(run)
        await until_in(slow, run, RunStatus.STOPPED)
        assert servers.names("Secret") == []
        assert servers.kube.operator.started == []

    async def test_a_late_submit_after_forgetting_starts_nothing_here_and_is_seen_elsewhere(
        self, servers: Servers
    ) -> None:
        one, other, run = servers.new(), servers.new(), printing("late", seconds=60)
        await one.submit(run)
        await one.stop(run.submission_id)
        await until_in(one, run, RunStatus.STOPPED)
        await one.forget(run.submission_id)
        await until(lambda: servers.names("RayJob") == servers.names("Secret") == [])
        await one.submit(run)
        assert servers.names("RayJob") == []
        await other.submit(run)  # from a server that knows nothing of it: the loop that ends orphans sees it
        assert await one.list() == [run.submission_id]
        await one.stop(run.submission_id)
        await until_in(one, run, RunStatus.STOPPED)

    async def test_one_that_is_still_being_deleted_is_in_the_way(self, servers: Servers) -> None:
        one, other, run = servers.new(), servers.new(), printing("x")
        await one.submit(run)
        await until_in(one, run, RunStatus.SUCCEEDED)
        servers.kube.operator.works = False
        await one.forget(run.submission_id)
        assert (await other.status(run.submission_id)).status is RunStatus.UNKNOWN
        with pytest.raises(Unavailable, match="still being deleted"):
            await other.submit(run)

    async def test_what_kubernetes_does_not_take_is_said(self, servers: Servers) -> None:
        wrong = replace(LAPTOP.jobs, worker=replace(LAPTOP.jobs.worker, tolerations=({"key": 3},)))
        cluster, run = servers.new(replace(LAPTOP, jobs=wrong)), a_run()
        with pytest.raises(Refused, match=r"does not take.*tolerations"):
            await cluster.submit(run)
        report = await cluster.status(run.submission_id)
        assert report.status is RunStatus.UNKNOWN
        assert report.trouble is not None
        assert report.trouble.code is TroubleCode.CONFIGURATION
        assert "tolerations" in report.message

    async def test_a_run_without_its_own_cluster_goes_to_the_standing_one(self, servers: Servers) -> None:
        cluster, run = servers.new(), printing("x", own_cluster=False)
        own = printing("y", seconds=60, name="own")
        await cluster.submit(run)
        await cluster.submit(own)
        assert list(servers.standing.runs) == [run.submission_id]
        assert servers.names("RayJob") == [own.submission_id]
        assert sorted(await cluster.list()) == sorted([run.submission_id, own.submission_id])
        assert (await cluster.status(run.submission_id)).status is RunStatus.PENDING
        await cluster.stop(run.submission_id)
        await cluster.forget(run.submission_id)
        assert servers.standing.runs == {}


class TestEnding:
    async def test_the_output_outlives_the_ray_cluster(self, servers: Servers) -> None:
        cluster, run = servers.new(), printing("its last words", seconds=60)
        await cluster.submit(run)
        await until_it_prints(cluster, run, "its last words")
        await cluster.stop(run.submission_id)
        await until_in(cluster, run, RunStatus.STOPPED)
        assert servers.objects("RayJob")[0]["spec"]["ttlSecondsAfterFinished"] == 0, "whatever time others are kept"
        await until(lambda: servers.names("RayCluster") == [])
        await until(lambda: len(servers.names("Pod")) == 1)
        assert (await cluster.log_tail(run.submission_id, 1000)).endswith("\nits last words\n")
        await cluster.forget(run.submission_id)
        await until(lambda: not any(map(servers.names, ("RayJob", "Job", "Pod", "Secret"))))
        assert await cluster.log_tail(run.submission_id, 1000) == ""

    async def test_one_that_kueue_holds_is_stopped_and_never_starts(self, servers: Servers) -> None:
        servers.kube.operator.kueue_admits = False
        cluster, run = servers.new(QUEUED), printing("never")
        await cluster.submit(run)
        await until(lambda: servers.objects("RayJob")[0].get("status", {}).get("jobDeploymentStatus") == "Suspended")
        assert (await cluster.status(run.submission_id)).status is RunStatus.PENDING
        await cluster.stop(run.submission_id)
        await until_in(cluster, run, RunStatus.STOPPED)
        assert await cluster.list() == []
        moment = datetime.now(UTC)
        servers.kube.operator.now = lambda: moment  # the second that it has is long enough for everything
        servers.kube.operator.admit(run.submission_id)  # too late
        await until(lambda: servers.objects("RayJob")[0]["status"]["jobDeploymentStatus"] in {"Failed", "Complete"})
        await until_in(cluster, run, RunStatus.STOPPED)
        assert "\nnever\n" not in await cluster.log_tail(run.submission_id, 1000)

    async def test_one_that_kueue_takes_out_waits_again_and_is_stopped(self, servers: Servers) -> None:
        cluster, run = servers.new(QUEUED), printing("here", seconds=60)
        await cluster.submit(run)
        await until_it_prints(cluster, run, "here")
        servers.kube.operator.hold(run.submission_id)
        await until_in(cluster, run, RunStatus.PENDING)
        await until(lambda: servers.names("Pod") == [])
        assert await cluster.list() == [run.submission_id]
        await cluster.stop(run.submission_id)
        await until_in(cluster, run, RunStatus.STOPPED)
        await cluster.forget(run.submission_id)
        await until(lambda: not any(map(servers.names, ("RayJob", "Secret"))))
        assert servers.kube.operator.started == [run.submission_id]

    async def test_one_that_kueue_lets_in_later_runs(self, servers: Servers) -> None:
        servers.kube.operator.kueue_admits = False
        cluster, run = servers.new(QUEUED), printing("at last")
        await cluster.submit(run)
        await until(lambda: servers.objects("RayJob")[0].get("status", {}).get("jobDeploymentStatus") == "Suspended")
        servers.kube.operator.admit(run.submission_id)
        await until_in(cluster, run, RunStatus.SUCCEEDED)
        assert (await cluster.log_tail(run.submission_id, 1000)).endswith("\nat last\n")

    async def test_one_whose_pods_never_started_is_stopped(self, servers: Servers) -> None:
        servers.kube.kubelet.has_room = False
        cluster, run = servers.new(), printing("never")
        await cluster.submit(run)
        await until(lambda: servers.names("Pod") != [])
        await cluster.stop(run.submission_id)
        await until_in(cluster, run, RunStatus.STOPPED)
        await until(lambda: servers.names("Pod") == [])
        assert await cluster.log_tail(run.submission_id, 1000) == ""
        await cluster.forget(run.submission_id)
        await until(lambda: servers.names("RayJob") == [])

    async def test_one_that_kuberay_has_not_seen_is_stopped(self, servers: Servers) -> None:
        servers.kube.operator.works = False
        cluster, run = servers.new(), printing("never")
        await cluster.submit(run)
        assert (await cluster.status(run.submission_id)).status is RunStatus.PENDING
        await cluster.stop(run.submission_id)
        assert (await cluster.status(run.submission_id)).status is RunStatus.STOPPED
        await cluster.forget(run.submission_id)
        assert servers.names("RayJob") == []

    async def test_what_nobody_forgets_goes_by_itself(self, servers: Servers) -> None:
        now = 0.0
        cluster, run = servers.new(clock=lambda: now), printing("x")
        await cluster.submit(run)
        await until_in(cluster, run, RunStatus.SUCCEEDED)
        await cluster.list()
        now = LAPTOP.jobs.keep_seconds - 1
        await cluster.list()
        assert servers.names("RayJob") == [run.submission_id]
        now += 2
        await cluster.list()
        await until(lambda: servers.names("RayJob") == [])


class TestBesideOthers:
    async def test_two_installations_leave_each_other_alone(self, servers: Servers) -> None:
        ours, theirs = servers.new(), servers.new(replace(LAPTOP, name="another"))
        run = printing("ours", seconds=60)
        await ours.submit(run)
        await until_in(ours, run, RunStatus.RUNNING)
        assert await theirs.list() == []
        assert (await theirs.status(run.submission_id)).status is RunStatus.UNKNOWN
        assert await theirs.log_tail(run.submission_id, 100) == ""
        await theirs.stop(run.submission_id)
        await theirs.forget(run.submission_id)
        with pytest.raises(Unavailable, match="Another's RayJob"):
            await theirs.submit(run)
        assert (await ours.status(run.submission_id)).status is RunStatus.RUNNING

    async def test_nothing_is_done_outside_the_namespace(self, servers: Servers) -> None:
        servers.kube.store.namespaces.add("other")
        cluster, run = servers.new(), printing("x", seconds=60)
        await cluster.submit(run)
        for kind in (RAY_JOBS, SECRETS, PODS, NETWORK_POLICIES):
            assert servers.kube.store.list(kind, "other") == []

    @pytest.mark.parametrize("what", ["has_room", "has_image"])
    async def test_what_keeps_it_from_starting_is_told(self, servers: Servers, what: str) -> None:
        setattr(servers.kube.kubelet, what, False)
        cluster, run = servers.new(), printing("never")
        await cluster.submit(run)
        codes = {"has_room": TroubleCode.UNSCHEDULABLE, "has_image": TroubleCode.IMAGE_PULL}
        async with asyncio.timeout(20):
            while True:
                report = await cluster.status(run.submission_id)
                assert report.status not in ENDED
                if report.trouble is not None and report.trouble.code is codes[what]:
                    break
                await asyncio.sleep(0.03)
        setattr(servers.kube.kubelet, what, True)
        if what == "has_image":
            await until_in(cluster, run, RunStatus.SUCCEEDED)
