"""The file of the pods' settings: what is read back, and what is refused with which sentence."""

from pathlib import Path

import pytest
import yaml

from trellis.server.clusters.kuberay.settings import KubeRaySettingsError, SecretKey, read_kuberay_settings

TEXT = """
namespace: trellis
name: trellis
image: registry.example.com/trellis-ray:1.0
ray_version: 2.60.0
auth_secret: trellis-ray-token
image_pull_secrets: [registry]
base_cache: {claim: bases}
trainers:
  head: {cpus: 2, memory: 8Gi}
  groups:
    - name: gpu
      max_replicas: 4
      pod:
        gpus: 1
        node_selector: {pool: gpu}
        tolerations: [{key: nvidia.com/gpu, operator: Exists}]
        secret_environment: {HF_TOKEN: {secret: hub, key: token}}
jobs: {queue: training}
"""


def read(folder: Path, text: str) -> object:
    path = folder / "kuberay.yaml"
    path.write_text(text)
    return read_kuberay_settings(path)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "kuberay.yaml"
    path.write_text(TEXT)
    settings = read_kuberay_settings(path)
    assert settings.trainers is not None
    assert settings.engines is None
    (group,) = settings.trainers.groups
    assert (settings.trainers.head.cpus, group.max_replicas, group.pod.gpus) == (2.0, 4, 1)
    assert group.pod.tolerations == ({"key": "nvidia.com/gpu", "operator": "Exists"},)
    assert group.pod.secret_environment == {"HF_TOKEN": SecretKey("hub", "token")}
    assert settings.base_cache is not None
    assert settings.base_cache.claim == "bases"
    assert settings.image_pull_secrets == ("registry",)
    assert settings.jobs.queue == "training"


def test_json_is_read_too_and_null_is_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "kuberay.json"
    path.write_text('{"namespace": "a", "name": "b", "image": "c", "ray_version": "2.60.0", "trainers": null}')
    assert read_kuberay_settings(path).trainers is None


REFUSED = {
    "image: a": ("imagee: a", "imagee is not a setting. Known are auth, auth_secret,"),
    "max_replicas: 4": ("max_replica: 4", "trainers.groups[0].max_replica is not a setting."),
    "gpus: 1": ("gpus: one", "trainers.groups[0].pod.gpus must be a whole number, not 'one'."),
    "gpus: 1 ": ("gpus: true", "trainers.groups[0].pod.gpus must be a whole number, not True."),
    "cpus: 2": ("cpus: '2'", "trainers.head.cpus must be a number, not '2'."),
    "[registry]": ("registry", "image_pull_secrets must be a list."),
    "{pool: gpu}": ("gpu", "trainers.groups[0].pod.node_selector must be a mapping of names to values."),
    "pool: gpu": ("pool: 1", "trainers.groups[0].pod.node_selector.pool must be a text, not 1."),
    "2.60.0": ("2.6", "ray_version must be a text, not 2.6."),
    "memory: 8Gi": ("memory: 8 GB", "trainers.head.memory must be an amount such as 16Gi, not '8 GB'."),
    "claim: bases": ("claim: bases, host_path: /b", "base_cache.claim or host_path must be set, and not both."),
    "name: trellis\n": ("name: Trellis\n", "name must be small letters, digits and dashes"),
    "namespace: trellis\n": ("\n", "namespace must be set."),
    "max_replicas: 4 ": ("{max_replicas: 0}", "can't be read"),
    "auth_secret: trellis-ray-token": ("engines: {groups: [{name: a, pod: {}}]}", "auth_secret must be set where"),
    "secret: hub, ": ("", "trainers.groups[0].pod.secret_environment.HF_TOKEN.secret must be set."),
    "name: gpu\n": ("name: gpu\n      min_replicas: 9\n", "trainers.groups[0].max_replicas must be 1 or more"),
    "jobs: {queue: training}": ("jobs: []", "jobs must be a mapping of names to values."),
}


@pytest.mark.parametrize("instead", REFUSED)
def test_what_is_wrong_is_refused_with_its_place(tmp_path: Path, instead: str) -> None:
    text, sentence = REFUSED[instead]
    of = instead.rstrip(" ") if instead != "image: a" else "image: registry.example.com/trellis-ray:1.0"
    assert TEXT.count(of) >= 1
    with pytest.raises(KubeRaySettingsError) as caught:
        read(tmp_path, TEXT.replace(of, text, 1))
    assert sentence in str(caught.value)
    assert "kuberay.yaml" in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(KubeRaySettingsError, match="can't be read"):
        read_kuberay_settings(tmp_path / "none.yaml")


def test_the_text_is_yaml() -> None:
    assert yaml.safe_load(TEXT)["name"] == "trellis"
