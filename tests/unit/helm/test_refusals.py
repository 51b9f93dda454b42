"""Wrong values are refused, with a sentence that names them."""

import pytest
from tests.helm_chart import refused

POD = "ray.trainers.groups[0].pod"


@pytest.mark.parametrize(
    ("change", "place", "name"),
    [
        ("sever.replicas=2", "(root)", "sever"),
        ("server.replcas=2", "server", "replcas"),
        ("server.settings.TRELLIS_TRAINER_CPU=2", "server.settings", "TRELLIS_TRAINER_CPU"),
        ("server.environment.TRELLIS_TRAINER_CPUS=2", "server.environment", "TRELLIS_TRAINER_CPUS"),
        ("database.bundled.enable=true", "database.bundled", "enable"),
        ("store.pvc.storageclass=fast", "store.pvc", "storageclass"),
        ("tls.issuer.nme=a", "tls.issuer", "nme"),
        ("ray.trainers.minReplicas=1", "ray.trainers", "minReplicas"),
        (f"{POD}.gpu=1", "ray.trainers.groups.0.pod", "gpu"),
        ("ray.jobs.worker.sharedMem=1Gi", "ray.jobs.worker", "sharedMem"),
        ("bases.models[0].token=a", "bases.models.0", "token"),
        ("networkPolicy.store.cidr=10.0.0.0/8", "networkPolicy.store", "cidr"),
        ("observability.tracing.endpont=a", "observability.tracing", "endpont"),
    ],
)
def test_a_misspelt_key_is_named_with_its_place(change: str, place: str, name: str) -> None:
    said = refused("laptop", change)
    assert names_place(said, place)
    assert name in said


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ("server.replicas=two", "server.replicas"),
        ("server.replicas=0", "server.replicas"),
        (f"{POD}.memory=much", "ray.trainers.groups.0.pod.memory"),
        (f"{POD}.gpus=0.5", "ray.trainers.groups.0.pod.gpus"),
        ("ray.trainers.groups[0].name=GPU", "ray.trainers.groups.0.name"),
        ("tls.mode=mutual", "tls.mode"),
        ("store.url=gs://bucket", "store.url"),
        ("image.server.digest=sha256:1", "image.server.digest"),
        ("bases.models[0].name=Qwen/Qwen3", "bases.models.0.name"),
        ("observability.tracing.ratio=2", "observability.tracing.ratio"),
        ('networkPolicy.clients=[{"podselector": {}}]', "networkPolicy.clients.0"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_its_place(change: str, place: str) -> None:
    assert names_place(refused("laptop", change), place)


def names_place(said: str, place: str) -> bool:
    """As Helm 3.17 says it, or as later ones do."""
    pointer = "" if place == "(root)" else "/" + place.replace(".", "/")
    return f"- {place}: " in said or f"at '{pointer}'" in said


@pytest.mark.parametrize(
    ("values", "changes", "sentence"),
    [
        ("laptop", ["database.existingSecret=a"], "database.bundled.enabled and database.existingSecret contradict"),
        ("laptop", ["database.bundled.enabled=false"], "There is no database: set database.existingSecret"),
        ("laptop", ["store.pvc.enabled=false"], "There is no object store: set store.url"),
        ("laptop", ["store.url=s3://a"], "store.url and store.pvc.enabled contradict"),
        ("laptop", ["store.existingSecret=a"], "are for an S3: leave them out"),
        ("laptop", ["tls.mode=secret"], "tls.mode=secret needs tls.secretName"),
        ("laptop", ["tls.secretName=a"], "set the mode, or leave the name out"),
        ("laptop", ["tls.mode=certManager"], "tls.mode=certManager needs tls.issuer.name"),
        ("laptop", ["tls.clientCaSecret=a"], "tls.clientCaSecret needs TLS"),
        ("given-secrets", ["ingress.enabled=true"], "an Ingress or Gateway ends their TLS before"),
        (
            "given-secrets",
            ["tests.clientCertificateSecret="],
            "set tests.clientCertificateSecret, or tests.enabled=false",
        ),
        ("laptop", ["ingress.enabled=true"], "ingress.enabled needs ingress.host and ingress.tlsSecret"),
        ("laptop", ["gateway.enabled=true"], "gateway.enabled needs gateway.parentRefs"),
        ("production", ["gateway.backendCaConfigMap="], "needs gateway.backendCaConfigMap"),
        ("production", ["networkPolicy.clients=[]"], "networkPolicy.clients is empty"),
        ("laptop", ["server.service.type=LoadBalancer"], "networkPolicy.clients is empty"),
        ("production", ["networkPolicy.store.to=[]"], "networkPolicy.store.to is empty"),
        ("production", ["networkPolicy.monitoring=[]"], "networkPolicy.monitoring is empty"),
        ("production", ["networkPolicy.tracing.to=[]"], "networkPolicy.tracing.to is empty"),
        ("given-secrets", ["networkPolicy.serverEgress=[]"], "could not fetch the keys of server.oidc's issuers"),
        ("laptop", ["networkPolicy.operator=[]"], "networkPolicy.operator is empty"),
        ("laptop", ["bases.cache.mode=none"], "choose pvc or hostPath"),
        ("production", ["bases.models[1].revision=main"], "the revision of house-model must be sha256:"),
        ("production", ["bases.models[1].name=llama-3-1-8b"], "bases.models has llama-3-1-8b twice"),
        ("laptop", ["ray.user=2000"], "ray.user must be 1000"),
        ("laptop", ["server.settings.TRELLIS_TRAINER_CPUS=2"], "No pod of ray.trainers.groups has room"),
        ("one-gpu", ["server.settings.TRELLIS_ENGINE_GPUS=2"], "TRELLIS_ENGINE_GPUS (2) in server.settings reserve"),
        ("laptop", ["ray.engines.groups=[]"], "ray.engines.groups is empty"),
        ("laptop", ["ray.trainers.groups[0].minReplicas=3"], "cpu has minReplicas 3, more than maxReplicas 1"),
        ("laptop", [f"fullnameOverride={'a' * 33}"], "must be at most 32"),
        ("laptop", ["fullnameOverride=1st"], "beginning with a letter"),
    ],
)
def test_a_contradiction_is_refused_with_a_sentence(values: str, changes: list[str], sentence: str) -> None:
    said = refused(values, *changes)
    assert sentence in said
    assert "execution error" in said  # by a check, not by a template that broke
