"""What the suite takes for the same result of a recipe, and what not."""

from datetime import UTC, datetime

from tests.chaos.checks.jobs import Result
from trellis.client.types import MetricPoint

POINTS = [MetricPoint(step, {"train_loss": 1.0 / step}, datetime(2026, 1, 1, tzinfo=UTC)) for step in (1, 2, 3)]
CONFIG, WEIGHTS = {"sha256": "c" * 64, "size": 900.0}, {"size": 1900.0, "sha256": "w" * 64}
USUAL = Result.of(POINTS, {"files": {"adapter_config.json": CONFIG, "adapter_model.safetensors": WEIGHTS}})


def test_the_order_of_a_manifests_keys_is_no_difference() -> None:
    turned = {"adapter_model.safetensors": dict(reversed(WEIGHTS.items())), "adapter_config.json": CONFIG}
    assert Result.of(POINTS, {"files": turned}) == USUAL


def test_other_weights_and_other_losses_are_and_are_named() -> None:
    files = {"adapter_config.json": CONFIG, "adapter_model.safetensors": {**WEIGHTS, "sha256": "x" * 64}}
    other = Result.of(POINTS, {"files": files})
    assert other != USUAL
    assert other.unlike(USUAL) == "its losses are others nowhere; other files: adapter_model.safetensors"
    points = [*POINTS[:2], MetricPoint(3, {"train_loss": 0.25}, POINTS[2].time)]
    assert "from step 3 on: 0.25 and not 0.333" in Result.of(points, {"files": files}).unlike(USUAL)
