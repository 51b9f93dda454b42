"""What can't be trained is refused when it is submitted, by a sentence that names the field and says what to do."""

import io
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from tests.server_process import Server

import trellis
from trellis import DistributedSpec, LoraSpec, PreferenceSpec, PretrainingSpec, TrainingSettings
from trellis.client.types import DatasetVersionState
from trellis.local.ports import free_ports

pytestmark = pytest.mark.timeout(120)
OFFLOADED = '{"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}'


def supervised(**settings: Any) -> dict[str, Any]:
    return {"supervised": TrainingSettings(**settings)}


def lora(**shape: Any) -> dict[str, Any]:
    return supervised(lora=LoraSpec(**shape))


def pairs(**settings: Any) -> dict[str, Any]:
    return {"training_dataset": "pairs", "preference": PreferenceSpec(**settings)}


def spread(config: object = None, **settings: Any) -> dict[str, Any]:
    text = config if isinstance(config, str) else json.dumps(config)
    return {"distributed": DistributedSpec(**settings, config_json="" if config is None else text)}


WRONG_FIELDS: tuple[tuple[dict[str, Any], str, str], ...] = (
    (supervised(epochs=0), "supervised.epochs", "between 1 and 100"),
    (supervised(epochs=101), "supervised.epochs", "between 1 and 100"),
    (supervised(epochs=1.5), "supervised.epochs", "1.5 can't be its value"),
    (supervised(epochs="three"), "supervised.epochs", "'three' can't be its value"),
    (supervised(batch_size=5000), "supervised.batch_size", "between 1 and 1024"),
    (supervised(batch_size=16, gradient_accumulation_steps=3), "supervised.gradient_accumulation_steps", "divide"),
    (supervised(gradient_accumulation_steps=2000), "supervised.gradient_accumulation_steps", "between 1 and 1024"),
    (supervised(learning_rate=0.0), "supervised.learning_rate", "between"),
    (supervised(learning_rate=math.inf), "supervised.learning_rate", "between"),
    (supervised(learning_rate="auto"), "supervised.learning_rate", "'auto' can't be its value"),
    (supervised(schedule="polynomial"), "supervised.schedule", "none of COSINE, LINEAR, CONSTANT"),
    (supervised(precision="fp8"), "supervised.precision", "none of FP32, BF16"),
    (supervised(warmup_ratio=2.0), "supervised.warmup_ratio", "between"),
    (supervised(weight_decay=-1.0), "supervised.weight_decay", "between"),
    (supervised(max_grad_norm=0.0), "supervised.max_grad_norm", "between"),
    (supervised(max_steps=0), "supervised.max_steps", "between"),
    (supervised(context_length=4), "supervised.context_length", "between 8 and 1024"),
    (supervised(context_length=9999), "supervised.context_length", "between 8 and 1024"),
    (supervised(seed=2**40), "supervised.seed", "between"),
    (supervised(held_out_fraction=0.7), "supervised.held_out_fraction", "between 0.0 and 0.5"),
    (supervised(checkpoint_steps=0), "supervised.checkpoint_steps", "between"),
    (supervised(max_evaluation_lines=-1), "supervised.max_evaluation_lines", "between"),
    (supervised(early_stopping_patience=0), "supervised.early_stopping_patience", "between"),
    (
        supervised(early_stopping_patience=2, held_out_fraction=0.0),
        "supervised.early_stopping_patience",
        "give a held_out_fraction above 0",
    ),
    (supervised(evaluation_steps=2, held_out_fraction=0.0), "supervised.evaluation_steps", "give a held_out_fraction"),
    (
        {**supervised(held_out_fraction=0.3), "validation_dataset": "chat"},
        "supervised.held_out_fraction",
        "leave it out",
    ),
    (supervised(replay_fraction=0.5), "supervised.replay_fraction", "name a replay_dataset"),
    ({**supervised(replay_fraction=0.95), "replay_dataset": "chat"}, "supervised.replay_fraction", "between"),
    ({**supervised(batch_size=1), "replay_dataset": "chat"}, "supervised.batch_size", "2 is the least"),
    (lora(rank=0), "supervised.lora.rank", "between 1 and 256"),
    (lora(rank=300), "supervised.lora.rank", "between 1 and 256"),
    (lora(alpha=-1.0), "supervised.lora.alpha", "between"),
    (lora(dropout=1.0), "supervised.lora.dropout", "between 0.0 and 0.95"),
    (lora(target_modules=("nose",)), "supervised.lora.target_modules", "it has down_proj, gate_proj"),
    (lora(target_modules=("lm_head",)), "supervised.lora.target_modules", "it has down_proj, gate_proj"),
    (supervised(full=True, lora=LoraSpec(rank=16)), "supervised.lora", "leave it out"),
    (supervised(full=True, lora=LoraSpec(rank=4)), "supervised.lora", "leave it out"),
    (supervised(full=True, quantization="NF4"), "supervised.quantization", "leave quantization out"),
    ({**supervised(full=True), "alias": "mine"}, "alias", "makes an export"),
    ({**supervised(full=True), "deploy": True}, "deploy", "makes an export"),
    ({**supervised(full=True), "initial_adapter": "mine"}, "initial_adapter", "no adapter to start from"),
    (supervised(quantization="NF4"), "supervised.quantization", "need a GPU"),
    ({**supervised(quantization="NF4"), **spread(zero_stage=3)}, "distributed.zero_stage", "take stage 1 or 2"),
    (pairs(beta=0.0), "preference.beta", "between"),
    (pairs(label_smoothing=0.5), "preference.label_smoothing", "less than 0.5"),
    (pairs(loss="ORPO", label_smoothing=0.1), "preference.label_smoothing", "leave it out"),
    (pairs(loss="ORPO", reference_free=True), "preference.reference_free", "ORPO never has one"),
    (pairs(loss="KTO"), "preference.loss", "none of DPO, ORPO"),
    (pairs(training=TrainingSettings(epochs=0)), "preference.training.epochs", "between 1 and 100"),
    (spread(workers=0), "distributed.workers", "between"),
    (spread(zero_stage=5), "distributed.zero_stage", "between 1 and 3"),
    (spread(zero_stage=2, offload="ALL"), "distributed.offload", "only stage 3 can"),
    (spread(zero_stage=0, offload="OPTIMIZER"), "distributed.zero_stage", "take 1, 2 or 3"),
    (spread({"zero_optimization": {"stage": 0}}), "distributed.config_json", "take 1, 2 or 3"),
    (spread("{"), "distributed.config_json", "no JSON"),
    (spread([]), "distributed.config_json", "no JSON object"),
    (spread({"bf16": {"enabled": True}}), "distributed.config_json", "leave it out"),
    (spread({"zero_optimization": {"stage": "x"}}), "distributed.config_json", "not 1, 2 or 3"),
    (spread({"zero_optimization": {"stage": 1}}, zero_stage=2), "distributed.config_json", "leave one of them out"),
    (spread(OFFLOADED), "distributed.config_json", "only stage 3 can"),
    (spread({"zero_optimisation": {"stage": 2}}), "distributed.config_json", "'zero_optimization' is the nearest name"),
    (
        spread({"zero_optimization": {"reduce_bucketsize": 1}}),
        "distributed.config_json",
        "'zero_optimization.reduce_bucket_size' is the nearest name",
    ),
    (spread({"offload_param": {"device": "cpu"}}), "distributed.config_json", "belongs into 'zero_optimization'"),
    (spread({"tensor_parallel": {"autotp_size": 2}}), "distributed.config_json", "nothing that jobs use"),
    (
        spread({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}),
        "distributed.config_json",
        "only the host's memory",
    ),
    (spread("[" * 60_000), "distributed.config_json", "no JSON"),
    (spread("{" + " " * 70_000 + "}"), "distributed.config_json", "longer than 65536 letters"),
    ({"initial_adapter": "tenants/acme/datasets/chat"}, "initial_adapter", "adapters/{adapter}"),
    ({"alias": "tenants/globex/aliases/x"}, "alias", "not one of tenants/acme"),
    ({"priority": 200}, "priority", "between -100 and 100"),
    ({"display_name": "x" * 200}, "display_name", "100 is the most"),
)

OTHERWISE: tuple[tuple[dict[str, Any], type[trellis.TrellisError], str], ...] = (
    ({"preference": PreferenceSpec()}, trellis.FailedPrecondition, r"training_dataset: .*choose supervised tuning"),
    ({"pretraining": PretrainingSpec()}, trellis.FailedPrecondition, r"training_dataset: .*Give it plain text"),
    ({"training_dataset": "pairs"}, trellis.FailedPrecondition, r"training_dataset: .*choose preference tuning"),
    ({"replay_dataset": "pairs"}, trellis.FailedPrecondition, r"replay_dataset: .*Give it conversations"),
    ({"validation_dataset": "pairs"}, trellis.FailedPrecondition, r"validation_dataset: .*Give it conversations"),
    ({"training_dataset": "same", "preference": PreferenceSpec()}, trellis.FailedPrecondition, "20 invalid_preference"),
    ({"training_dataset": "none"}, trellis.NotFound, "datasets/none does not exist"),
    ({"initial_adapter": "none"}, trellis.NotFound, "aliases/none does not exist"),
    ({"base_model": "none"}, trellis.FailedPrecondition, "baseModels/none is not registered"),
    (spread(workers=9), trellis.FailedPrecondition, "needs 9 CPUs.*Ask for fewer workers"),
    ({"supervised": TrainingSettings(), "preference": PreferenceSpec()}, trellis.InvalidArgument, "one method"),
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trellis.Client]:
    """Of a tenant with four datasets, on a server of its own."""
    grpc_port, http_port = free_ports(2)
    server = Server(tmp_path_factory.mktemp("server"), grpc_port, http_port)
    try:
        server.start()
        server.until_ready()
        with server.client() as admin:
            admin.tenants.create("acme")
        with server.client(tenant="acme") as connected:
            for dataset, line in _LINES.items():
                data = "".join(json.dumps(line(number)) + "\n" for number in range(20)).encode()
                version = connected.datasets.upload(io.BytesIO(data), dataset=dataset, filename=f"{dataset}.jsonl")
                wanted = DatasetVersionState.INVALID if dataset == "same" else DatasetVersionState.READY
                assert version.state is wanted, version.summary
            yield connected
    finally:
        server.end()


_LINES: dict[str, Any] = {
    "chat": lambda n: {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": str(n)}]},
    "text": lambda n: {"text": f"Text number {n}."},
    "pairs": lambda n: {"prompt": f"Say {n}.", "chosen": str(n), "rejected": "No."},
    "same": lambda n: {"prompt": f"Say {n}.", "chosen": "No.", "rejected": "No."},
}


def refused(client: trellis.Client, asked: dict[str, Any], kind: type[trellis.TrellisError]) -> trellis.TrellisError:
    with pytest.raises(kind) as caught:
        client.jobs.create(**{"training_dataset": "chat", **asked})
    assert str(caught.value).endswith((".", ".)"))
    return caught.value


@pytest.mark.parametrize(("asked", "field", "words"), WRONG_FIELDS)
def test_a_wrong_field_is_named_with_what_to_do(
    client: trellis.Client, asked: dict[str, Any], field: str, words: str
) -> None:
    error = refused(client, asked, trellis.InvalidArgument)
    said = [violation.description for violation in error.violations if violation.field == f"tuning_job.{field}"]
    assert any(words in sentence for sentence in said), error.violations
    assert f"tuning_job.{field}: " in str(error)
    assert len(said) == len(set(said)), "each is said once"


@pytest.mark.parametrize(("asked", "kind", "words"), OTHERWISE)
def test_what_does_not_fit_is_said_with_what_to_do(
    client: trellis.Client, asked: dict[str, Any], kind: type[trellis.TrellisError], words: str
) -> None:
    error = refused(client, asked, kind)
    with pytest.raises(kind, match=words):
        raise error


def test_nothing_of_what_was_refused_is_there(client: trellis.Client) -> None:
    assert list(client.jobs.list()) == []
