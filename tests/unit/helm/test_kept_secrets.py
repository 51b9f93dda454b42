"""An upgrade finds the secrets of before: Helm asks an API server, here one that answers over HTTP what it was given."""

import base64

from tests.helm_chart import Object, Rendered, render
from tests.helm_cluster import Cluster

MADE = ("demo-trellis-secret", "demo-trellis-ray-token", "demo-trellis-postgresql")


def secrets_of(rendered: Rendered) -> dict[str, Object]:
    return {one["metadata"]["name"]: one for one in rendered.all("Secret")}


def test_an_upgrade_writes_back_what_the_install_made(cluster: Cluster) -> None:
    cluster.secrets = secrets_of(render("laptop"))
    assert set(cluster.secrets) == set(MADE)
    again = secrets_of(render("laptop", "--is-upgrade", "--dry-run=server"))
    assert {name: one["data"] for name, one in again.items()} == {
        name: one["data"] for name, one in cluster.secrets.items()
    }


def test_what_a_secret_of_before_lacks_is_made_and_the_rest_is_kept(cluster: Cluster) -> None:
    cluster.secrets = secrets_of(render("laptop"))
    before = cluster.secrets["demo-trellis-secret"]["data"]
    del before["admin-key"]
    after = secrets_of(render("laptop", "--is-upgrade", "--dry-run=server"))["demo-trellis-secret"]["data"]
    assert after["server-secret"] == before["server-secret"]
    assert base64.b64decode(after["admin-key"]).startswith(b"trk_")


def test_where_none_is_there_each_is_fresh(cluster: Cluster) -> None:
    first, second = (secrets_of(render("laptop", "--dry-run=server")) for _ in range(2))
    for name in MADE:
        assert not set(first[name]["data"].values()) & set(second[name]["data"].values())


def test_what_is_made_is_what_the_server_takes() -> None:
    made = secrets_of(render("laptop"))
    keys = {name: base64.b64decode(value).decode() for name, value in made["demo-trellis-secret"]["data"].items()}
    assert len(keys["server-secret"]) == 64
    assert len(keys["admin-key"].removeprefix("trk_")) == 43
    database = {
        name: base64.b64decode(value).decode() for name, value in made["demo-trellis-postgresql"]["data"].items()
    }
    assert database["url"] == (
        f"postgresql+psycopg://trellis:{database['password']}@demo-trellis-postgresql:5432/trellis"
    )
