"""As whom pods run: as the images' own users, or as the cluster says."""

from pathlib import Path
from typing import Any

import pytest
from tests.helm_chart import Rendered, read_settings, refused, render
from tests.pod_security import restricted_errors

from trellis.server.app.hosts import RunRequest
from trellis.server.clusters.kuberay import manifests

OPENSHIFT = ("--api-versions", "security.openshift.io/v1")
NAMED = {"runAsUser", "runAsGroup", "fsGroup"}
RUN = RunRequest("run-1", ("python",), {}, 0.0, 0.0, {}, workers=2, worker_cpus=1.0, own_cluster=True)


def named(value: Any) -> list[int]:
    """Every user and group that an object names, however deep."""
    if isinstance(value, list):
        return [user for one in value for user in named(one)]
    if not isinstance(value, dict):
        return []
    own = [one for name, one in value.items() if name in NAMED]
    return own + [user for one in value.values() for user in named(one)]


def ray_objects(rendered: Rendered, folder: Path) -> list[dict[str, Any]]:
    settings = read_settings(rendered, folder)
    assert settings.trainers is not None
    assert settings.engines is not None
    return [
        manifests.trainers_cluster(settings, settings.trainers),
        manifests.engines_service(settings, settings.engines, "applications: []"),
        manifests.ray_job(settings, RUN),
    ]


def test_where_the_cluster_says_it_no_pod_names_a_user(tmp_path: Path) -> None:
    rendered = render("openshift")
    assert named(list(rendered.objects)) == []
    for one in ray_objects(rendered, tmp_path):
        assert named(one) == [], one["kind"]
    for where, _, spec in rendered.pods():
        assert restricted_errors(spec) == [], where


def test_openshift_is_known_by_what_its_api_has(laptop: Rendered, tmp_path: Path) -> None:
    there = render("laptop", *OPENSHIFT)
    assert named(list(there.objects)) == []
    assert [user for one in ray_objects(there, tmp_path) for user in named(one)] == []
    assert set(named(list(laptop.objects))) == {1000, 999}
    for one in ray_objects(laptop, tmp_path):
        assert set(named(one)) == {1000}


@pytest.mark.parametrize(("chosen", "users"), [("never", {1000, 999}), ("always", set())])
def test_what_is_chosen_counts_before_what_is_found(chosen: str, users: set[int]) -> None:
    for found in (OPENSHIFT, ()):
        rendered = render("laptop", "--set", f"podSecurity.clusterUsers={chosen}", *found)
        assert set(named(list(rendered.objects))) == users


def test_a_user_of_ray_s_own_does_not_matter_where_the_cluster_says_it() -> None:
    """The store is a volume: servers and Ray's pods read what the other wrote, as the one user of their namespace."""
    assert named(list(render("laptop", "--set", "ray.user=2000,podSecurity.clusterUsers=always").objects)) == []
    assert "podSecurity.clusterUsers" in refused("laptop", "podSecurity.clusterUsers=sometimes")
