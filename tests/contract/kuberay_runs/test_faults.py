"""What goes wrong between the server and Kubernetes' API, and what the server makes of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any

import pytest
from tests.contract.kuberay_runs.rig import Servers, printing, until, until_in, until_it_prints
from tests.kube.faults import Fault
from tests.kube.rig import REAL, Kube
from tests.kuberay_settings import LAPTOP

from trellis.errors import Unavailable
from trellis.server.app.hosts import RunStatus
from trellis.server.clusters.kuberay import api as api_module
from trellis.server.clusters.kuberay.api import Change, KubeApi
from trellis.server.clusters.kuberay.informer import Informer
from trellis.server.clusters.kuberay.refusals import Gone
from trellis.server.clusters.kuberay.resources import (
    CONFIG_MAPS,
    PODS,
    RAY_JOBS,
    SECRETS,
    Object,
    Resource,
    name_of,
    uid_of,
)


def config_map(name: str, value: str = "", **labels: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"of": "the-test", **labels}},
        "data": {"value": value},
    }


@pytest.fixture
async def slept() -> list[float]:
    return []


@pytest.fixture
async def api(stand_in: Kube, slept: list[float]) -> AsyncIterator[KubeApi]:
    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    stand_in.operator.works = False
    stand_in.server.permissions = None
    one = stand_in.api(sleep=sleep)
    yield one
    await one.close()


class TestCalls:
    async def test_a_read_waits_as_long_as_it_is_told(self, api: KubeApi, stand_in: Kube, slept: list[float]) -> None:
        stand_in.faults.plan("list", "rayjobs", Fault(status=429, retry_after="1"), Fault(status=503))
        assert (await api.list(RAY_JOBS)).items == ()
        assert slept == [1.0, 0.2]

    async def test_a_wait_that_is_too_long_is_the_callers(
        self, api: KubeApi, stand_in: Kube, slept: list[float]
    ) -> None:
        stand_in.faults.plan("list", "rayjobs", Fault(status=429, retry_after="17"))
        with pytest.raises(Unavailable, match="answered 429 to a list of rayjobs") as caught:
            await api.list(RAY_JOBS)
        assert caught.value.retry_after == 17.0
        assert str(caught.value).endswith(": Too many requests, please try again later.")
        assert slept == []

    @pytest.mark.parametrize("fault", [Fault(status=500), Fault(cut=True), Fault(loses_answer=True)])
    async def test_a_read_is_tried_again_for_a_moment(self, api: KubeApi, stand_in: Kube, fault: Fault) -> None:
        stand_in.faults.plan("get", "configmaps", fault, fault)
        assert await api.get(CONFIG_MAPS, "nothing") is None
        # The HTTP client itself asks twice each time where a connection is cut.
        stand_in.faults.plan("get", "configmaps", *[fault] * 6)
        with pytest.raises(Unavailable, match=r"answered 500|can't be reached"):
            await api.get(CONFIG_MAPS, "nothing")

    @pytest.mark.parametrize("fault", [Fault(status=429, retry_after="1"), Fault(status=500), Fault(loses_answer=True)])
    async def test_a_write_is_left_to_the_caller(self, api: KubeApi, stand_in: Kube, fault: Fault) -> None:
        stand_in.faults.plan("create", "configmaps", fault)
        with pytest.raises(Unavailable):
            await api.create(CONFIG_MAPS, config_map("a"))
        assert stand_in.server.asked == [("", "configmaps", "create")]

    async def test_a_slow_answer_is_waited_for(self, api: KubeApi, stand_in: Kube) -> None:
        stand_in.faults.plan("get", "configmaps", Fault(seconds=0.3))
        assert await api.get(CONFIG_MAPS, "nothing") is None

    async def test_an_expired_token_is_said_and_a_new_one_taken(self, api: KubeApi, stand_in: Kube) -> None:
        stand_in.faults.token_expired = True
        with pytest.raises(Unavailable, match="does not accept the server's credentials"):
            await api.list(RAY_JOBS)
        stand_in.faults.token_expired = False
        assert (await api.list(RAY_JOBS)).items == ()

    async def test_a_missing_permission_is_named(self, api: KubeApi, stand_in: Kube) -> None:
        stand_in.server.permissions = frozenset()
        with pytest.raises(Unavailable, match=r"may not list rayjobs of ray\.io in the namespace 'trellis'"):
            await api.list(RAY_JOBS)
        with pytest.raises(Unavailable, match="may not get pods/log in the namespace 'trellis'"):
            await api.log_tail("a", "b", 100)

    async def test_a_namespace_or_a_definition_that_is_missing_is_said(self, stand_in: Kube) -> None:
        stand_in.server.permissions = None
        elsewhere = stand_in.api("nowhere")
        with pytest.raises(Unavailable, match=r"'nowhere'.*install KubeRay.*correct the namespace"):
            await elsewhere.create(CONFIG_MAPS, config_map("a"))
        await elsewhere.close()
        here, undefined = stand_in.api(), Resource("ray.io", "v1", "raytrains", "RayTrain")
        for call in (here.list(undefined), here.get(undefined, "a"), here.patch(undefined, "a", {})):
            with pytest.raises(Unavailable, match=r"no raytrains of ray.io.*install KubeRay.*404 page not found"):
                await call
        await here.close()

    async def test_a_long_list_comes_in_pages_of_one_moment(
        self, api: KubeApi, stand_in: Kube, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api_module, "_PAGE", 2)
        for number in range(5):
            await api.create(CONFIG_MAPS, config_map(f"a{number}", colour="red" if number else "blue"))
        real, pages = api._read, 0

        async def read(path: str, query: dict[str, str]) -> object:
            nonlocal pages
            pages += 1
            if pages == 2:
                stand_in.store.create(CONFIG_MAPS, "trellis", config_map("a3a", colour="red"))
            return await real(path, query)

        monkeypatch.setattr(api, "_read", read)
        listing = await api.list(CONFIG_MAPS, "colour=red")
        assert [name_of(one) for one in listing.items] == ["a1", "a2", "a3", "a4"]
        assert all(one["kind"] == "ConfigMap" for one in listing.items)
        assert pages >= 2, "Kubernetes may give an empty last one"
        async for change in api.watch(CONFIG_MAPS, listing.resource_version, 15, "colour=red"):
            if change.kind != "OPENED":  # what is told first is what came after that moment
                assert (change.kind, name_of(change.object)) == ("ADDED", "a3a")
                break

    async def test_pages_that_grew_too_old_are_read_anew(
        self, api: KubeApi, stand_in: Kube, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api_module, "_PAGE", 2)
        for number in range(5):
            await api.create(CONFIG_MAPS, config_map(f"a{number}"))
        real, pages = api._read, 0

        async def read(path: str, query: dict[str, str]) -> object:
            nonlocal pages
            pages += 1
            if pages == 2:
                stand_in.store.create(CONFIG_MAPS, "trellis", config_map("late"))
                stand_in.store.compact()
            return await real(path, query)

        monkeypatch.setattr(api, "_read", read)
        assert [name_of(one) for one in (await api.list(CONFIG_MAPS)).items] == ["a0", "a1", "a2", "a3", "a4", "late"]

    async def test_only_what_was_read_is_deleted(self, api: KubeApi, stand_in: Kube) -> None:
        made = await api.create(CONFIG_MAPS, config_map("a"))
        assert made is not None
        assert await api.create(CONFIG_MAPS, config_map("a")) is None
        await api.patch(CONFIG_MAPS, "a", {"data": {"value": "other"}})
        assert not await api.delete(CONFIG_MAPS, "a", uid_of(made), made["metadata"]["resourceVersion"])
        assert not await api.delete(CONFIG_MAPS, "a", "another's")
        assert await api.delete(CONFIG_MAPS, "a", uid_of(made))
        assert await api.delete(CONFIG_MAPS, "a", uid_of(made)), "gone is gone"
        assert stand_in.store.list(CONFIG_MAPS, "trellis") == []

    async def test_what_was_applied_and_is_no_more_is_taken_out(self, api: KubeApi) -> None:
        await api.apply(CONFIG_MAPS, {**config_map("a"), "data": {"mine": "1", "old": "2"}})
        await api.patch(CONFIG_MAPS, "a", {"data": {"theirs": "3"}})
        applied = await api.apply(CONFIG_MAPS, {**config_map("a"), "data": {"mine": "4"}})
        assert applied["data"] == {"mine": "4", "theirs": "3"}

    async def test_a_watch_from_too_long_ago_says_so_either_way(self, api: KubeApi, stand_in: Kube) -> None:
        await api.create(CONFIG_MAPS, config_map("a"))
        stand_in.store.compact()
        for stand_in.faults.gone_as_status in (False, True):
            with pytest.raises(Gone):
                async for _ in api.watch(CONFIG_MAPS, "1000", 5):
                    pass

    async def test_the_end_of_a_log_is_read_however_long_it_is(self, api: KubeApi, stand_in: Kube) -> None:
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "a"},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        }
        made = stand_in.store.create(PODS, "trellis", pod)
        assert await api.log_tail("a", "c", 100) == "", "it waits to start"
        assert await api.log_tail("gone", "c", 100) == ""
        stand_in.kubelet.output(made, "c").write_text("x" * 3_000_000 + "\nthe end\n")
        assert (await api.log_tail("a", "c", 100)).endswith("x\nthe end\n")


@asynccontextmanager
async def informed(api: KubeApi, **options: Any) -> AsyncIterator[Informer]:
    # Not of that which a cluster puts into every namespace.
    informer = Informer(api, CONFIG_MAPS, "of=the-test", **options)
    informer.start()
    await informer.until_fresh()
    yield informer
    await informer.close()


def values(informer: Informer) -> dict[str, str]:
    return {name_of(one): one["data"]["value"] for one in informer.items()}


class TestWatching:
    @pytest.fixture
    async def api(self, stand_in: Kube) -> AsyncIterator[KubeApi]:
        stand_in.operator.works = False
        stand_in.server.permissions = None
        one = stand_in.api()
        yield one
        await one.close()

    async def test_what_happens_is_seen(self, api: KubeApi, stand_in: Kube) -> None:
        stand_in.store.create(CONFIG_MAPS, "trellis", config_map("a", "1"))
        async with informed(api) as informer:
            assert values(informer) == {"a": "1"}
            stand_in.store.create(CONFIG_MAPS, "trellis", config_map("b", "2"))
            stand_in.store.patch(CONFIG_MAPS, "trellis", "a", {"data": {"value": "3"}})
            await until(lambda: values(informer) == {"a": "3", "b": "2"})
            stand_in.store.delete(CONFIG_MAPS, "trellis", "a")
            await until(lambda: values(informer) == {"b": "2"})

    async def test_a_connection_that_is_cut_is_taken_up_where_it_was(self, api: KubeApi, stand_in: Kube) -> None:
        async with informed(api) as informer:
            for number in range(3):
                stand_in.faults.cut_watches()
                stand_in.store.create(CONFIG_MAPS, "trellis", config_map(f"a{number}"))
                await until(lambda: f"a{number}" in values(informer))  # noqa: B023 - asked at once
            assert [verb for *_, verb in stand_in.server.asked].count("list") == 1
            await until(lambda: informer.is_fresh)

    async def test_a_forgotten_history_is_listed_again(self, api: KubeApi, stand_in: Kube) -> None:
        stand_in.store.create(CONFIG_MAPS, "trellis", config_map("old"))
        async with informed(api) as informer:
            # In the middle of a watch, of which the last event and all that was before are forgotten.
            stand_in.store.delete(CONFIG_MAPS, "trellis", "old")
            stand_in.store.create(CONFIG_MAPS, "trellis", config_map("new"))
            stand_in.store.compact()
            await until(lambda: list(values(informer)) == ["new"])
            stand_in.store.create(CONFIG_MAPS, "trellis", config_map("newer"))
            await until(lambda: list(values(informer)) == ["new", "newer"])
            assert [verb for *_, verb in stand_in.server.asked].count("list") == 2

    @pytest.mark.skipif(bool(REAL), reason="Kubernetes itself tells it once a minute")
    async def test_bookmarks_keep_a_quiet_watch_young(self, api: KubeApi, stand_in: Kube) -> None:
        stand_in.server.bookmark_seconds = 0.05
        async with informed(api) as informer:
            stand_in.store.create(SECRETS, "trellis", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})
            await until(lambda: informer._version == str(stand_in.store.version))
            stand_in.store.compact()
            stand_in.faults.cut_watches()
            stand_in.store.create(CONFIG_MAPS, "trellis", config_map("a"))
            await until(lambda: list(values(informer)) == ["a"])
            assert [verb for *_, verb in stand_in.server.asked].count("list") == 1

    async def test_a_quiet_watch_that_went_well_for_long_is_taken_up_at_once(
        self, api: KubeApi, stand_in: Kube
    ) -> None:
        now, slept = 0.0, []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            await asyncio.sleep(0)

        async with informed(api, clock=lambda: now, sleep=sleep) as informer:
            for seconds in (0.0, 0.0, 0.0, 20.0):
                now += seconds
                cuts = len(slept)
                stand_in.faults.cut_watches()
                await until(lambda: len(slept) > cuts and informer.is_fresh)  # noqa: B023 - asked at once
            assert slept == [0.2, 0.4, 0.8, 0.2]

    async def test_events_that_come_twice_change_nothing(self, api: KubeApi, stand_in: Kube) -> None:
        stand_in.faults.events_come_twice = True
        async with informed(api) as informer:
            stand_in.store.create(CONFIG_MAPS, "trellis", config_map("a", "1"))
            stand_in.store.patch(CONFIG_MAPS, "trellis", "a", {"data": {"value": "2"}})
            stand_in.store.create(CONFIG_MAPS, "trellis", config_map("b", "3"))
            stand_in.store.delete(CONFIG_MAPS, "trellis", "b")
            stand_in.store.create(CONFIG_MAPS, "trellis", config_map("last"))
            taken: list[str] = []
            take = informer._take

            def spy(change: Change) -> None:
                take(change)
                taken.append(" ".join(f"{name}={value}" for name, value in values(informer).items()))

            informer._take = spy  # type: ignore[method-assign]
            await until(lambda: "last" in values(informer))
            assert values(informer) == {"a": "2", "last": ""}
            assert [state for state, _ in groupby(taken)] == ["a=1", "a=2", "a=2 b=3", "a=2", "a=2 last="]

    async def test_an_event_that_is_lost_is_made_good(self, api: KubeApi, stand_in: Kube) -> None:
        stand_in.store.create(CONFIG_MAPS, "trellis", config_map("a", "1"))
        async with informed(api, relist_seconds=1.5) as informer:
            stand_in.faults.events_to_lose = 1
            stand_in.store.delete(CONFIG_MAPS, "trellis", "a")
            stand_in.store.create(CONFIG_MAPS, "trellis", config_map("b", "2"))
            await until(lambda: "b" in values(informer))
            assert "a" in values(informer), "it can't know"
            await until(lambda: values(informer) == {"b": "2"})

    async def test_a_server_that_is_away_and_comes_back(self, api: KubeApi, stand_in: Kube) -> None:
        async with informed(api) as informer:
            await stand_in.server.stop()
            await until(lambda: not informer.is_fresh)
            with pytest.raises(Unavailable, match="can't be reached"):
                await api.list(CONFIG_MAPS)
            stand_in.store.create(CONFIG_MAPS, "trellis", config_map("meanwhile"))
            await stand_in.server.start()
            await until(lambda: informer.is_fresh and "meanwhile" in values(informer))

    async def test_a_list_that_fails_is_tried_again(self, api: KubeApi, stand_in: Kube) -> None:
        stand_in.faults.plan("list", "configmaps", *[Fault(cut=True)] * 4)
        stand_in.faults.plan("watch", "configmaps", Fault(cut=True), Fault(status=500))
        stand_in.store.create(CONFIG_MAPS, "trellis", config_map("a"))
        async with informed(api) as informer:
            assert list(values(informer)) == ["a"]


class TestRunsMeanwhile:
    async def test_a_run_goes_its_way_whatever_becomes_of_the_watches(self, servers: Servers) -> None:
        cluster, run, faults = servers.new(), printing("through it all", seconds=0.5), servers.kube.faults
        await cluster.submit(run)
        faults.events_come_twice = True
        seen: list[RunStatus] = []
        async with asyncio.timeout(20):
            while not seen or seen[-1] is not RunStatus.SUCCEEDED:
                seen.append((await cluster.status(run.submission_id)).status)
                faults.cut_watches()
                if len(seen) % 3 == 0:
                    servers.kube.store.compact()
                await asyncio.sleep(0.05)
        order = [RunStatus.PENDING, RunStatus.RUNNING, RunStatus.SUCCEEDED]
        assert [one for one in order if one in seen] == [one for n, one in enumerate(seen) if one not in seen[:n]]
        assert servers.kube.operator.started == [run.submission_id]

    async def test_a_server_that_starts_anew_finds_everything(self, servers: Servers) -> None:
        run = printing("here", seconds=60)
        await servers.new().submit(run)
        anew = servers.new()
        await until_in(anew, run, RunStatus.RUNNING)
        assert await servers.new().list() == [run.submission_id]
        await until_it_prints(servers.new(), run, "here")
        await servers.new().stop(run.submission_id)
        await until_in(servers.new(), run, RunStatus.STOPPED)
        await servers.new().forget(run.submission_id)
        assert (await servers.new().status(run.submission_id)).status is RunStatus.UNKNOWN

    async def test_that_a_run_is_gone_is_never_taken_from_a_copy(self, servers: Servers) -> None:
        one, other = servers.new(), servers.new()
        await one.list()
        await until(lambda: one._jobs.is_fresh)
        servers.kube.faults.events_to_lose = 1000
        run = printing("x", seconds=60)
        await other.submit(run)
        assert (await one.status(run.submission_id)).status is RunStatus.PENDING

    async def test_that_it_was_submitted_by_half_is_not_either(self, servers: Servers) -> None:
        one, other, run = servers.new(), servers.new(), printing("x", seconds=60)
        servers.kube.operator.works = False
        await one.list()
        await until(lambda: one._jobs.is_fresh)
        servers.kube.faults.plan("create", "secrets", Fault(status=500))
        with pytest.raises(Unavailable):
            await other.submit(run)
        await until(lambda: one._jobs.items() != [])
        servers.kube.faults.events_to_lose = 1000
        await other.submit(run)
        assert (await one.status(run.submission_id)).status is RunStatus.PENDING

    async def test_while_kubernetes_is_away_everything_says_so(self, servers: Servers) -> None:
        cluster, run = servers.new(), printing("still here", seconds=60)
        await cluster.submit(run)
        await until_it_prints(cluster, run, "still here")
        await servers.kube.server.stop()
        await until(lambda: not cluster._jobs.is_fresh)
        for call in (
            cluster.list(),
            cluster.status(run.submission_id),
            cluster.stop(run.submission_id),
            cluster.forget(run.submission_id),
            cluster.log_tail(run.submission_id, 100),
            cluster.submit(printing("y", name="y")),
        ):
            with pytest.raises(Unavailable, match="can't be reached"):
                await call
        await servers.kube.server.start()
        assert (await cluster.status(run.submission_id)).status is RunStatus.RUNNING

    async def test_the_ticket_is_in_the_secret_alone(self, servers: Servers) -> None:
        cluster, run = servers.new(), printing("x", environment={"TRELLIS_ATTEMPT_TICKET": "a-one-use-ticket"})
        await cluster.submit(run)
        await until_in(cluster, run, RunStatus.SUCCEEDED)
        others = [kind for kind in ("RayJob", "RayCluster", "Pod", "Job", "Event", "Service") if servers.names(kind)]
        assert {"RayJob", "Pod", "Job"} <= set(others)
        for kind in others:
            assert "a-one-use-ticket" not in json.dumps(servers.objects(kind)), kind
        assert LAPTOP.namespace == servers.objects("Secret")[0]["metadata"]["namespace"]
