"""Whether the engine can run a model of transformers, found out by trying, so that no kind of model is silently wrong."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from trellis.bases import BaseFacts, BaseModelError
from trellis.engine.attention import IMPLEMENTATION, AttentionProbe, UnknownAttentionError, attach

_KNOWN_LAYERS: Final = frozenset({"full_attention", "sliding_attention"})
TRIAL_TOKENS: Final = 40
_TOLERANCE: Final[Mapping[torch.dtype, float]] = {torch.float32: 1e-3}
_COARSE_TOLERANCE: Final = 0.1


def refuse(facts: BaseFacts, reason: str) -> BaseModelError:
    """The error for a base that can't be served."""
    return BaseModelError(f"{facts.architecture} is not supported by the engine: {reason}")


def check_config(config: PretrainedConfig, facts: BaseFacts) -> None:
    """Raise BaseModelError for what a short trial could not show."""
    if config.is_encoder_decoder:
        raise refuse(facts, "it has an encoder.")
    if getattr(config, "attention_chunk_size", None):
        raise refuse(facts, "it attends within chunks.")
    strange = sorted({*(getattr(config, "layer_types", None) or ())} - _KNOWN_LAYERS)
    if strange:
        raise refuse(facts, f"it has layers of the kind {', '.join(strange)}.")


def usable_context(config: PretrainedConfig, context_length: int) -> int:
    """Tokens up to which a position's rotation does not depend on how long the sequence is.

    One step holds sequences of any length, and what is cached was rotated when they were short. Longrope's short
    factors hold up to the length of its first training (https://arxiv.org/abs/2402.13753), dynamic scaling begins
    beyond the context.
    """
    lengths = [
        int(rope.get("original_max_position_embeddings") or context_length)
        for rope in _rope_parameters(config)
        if rope.get("rope_type") == "longrope"
    ]
    return min([context_length, *lengths])


def _rope_parameters(config: PretrainedConfig) -> Iterator[Mapping[str, Any]]:
    """One for the whole model, or one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in rope.values() if isinstance(value, Mapping)]
    yield from nested or [rope]


def adaptable(model: PreTrainedModel, facts: BaseFacts) -> dict[str, tuple[int, int]]:
    """The linears that an adapter may change: the matrices of the files that the loaded model has as plain linears."""
    modules = dict(model.named_modules())
    return {
        path: shape
        for path, shape in facts.linear_shapes.items()
        if isinstance(module := modules.get(path), nn.Linear) and tuple(module.weight.shape) == shape
    }


def freeze_rotation(model: PreTrainedModel) -> None:
    """Keep the frequencies of short sequences: transformers would choose by the longest one of a step, for all."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if isinstance(kinds, Mapping):
            module.rope_type = dict.fromkeys(kinds, "default")  # type: ignore[assignment]
        elif isinstance(kinds, str):
            module.rope_type = "default"  # type: ignore[assignment]


def probe_attention(model: PreTrainedModel, facts: BaseFacts) -> AttentionProbe:
    """Make the model attend through the engine and see what each layer keeps; raises BaseModelError."""
    probe = AttentionProbe()
    model.set_attn_implementation(IMPLEMENTATION)
    attach(model, probe)
    try:
        trial_logits(model, trial_tokens(facts, 1))
    except Exception as error:  # whatever a strange architecture trips over
        raise refuse(facts, f"its attention can't be replaced ({error}).") from error
    expected = model.config.get_text_config().num_hidden_layers
    if sorted(probe.shapes) != list(range(expected)):
        raise refuse(facts, f"only {len(probe.shapes)} of its {expected} layers attend in a way that is known.")
    _check_windows(model.config.get_text_config(), probe, facts)
    return probe


def _check_windows(config: PretrainedConfig, probe: AttentionProbe, facts: BaseFacts) -> None:
    for layer, kind in enumerate(getattr(config, "layer_types", None) or ()):
        if (kind == "sliding_attention") != (probe.formulas[layer].sliding_window is not None):
            raise refuse(facts, f"its layer {layer} does not say what its window is.")


def trial_tokens(facts: BaseFacts, at_most: int) -> list[int]:
    """A few tokens of many kinds."""
    return [index * 7919 % facts.vocabulary_size for index in range(1, min(TRIAL_TOKENS, at_most) + 1)]


@torch.inference_mode()
def trial_logits(model: PreTrainedModel, token_ids: list[int]) -> Tensor:
    """What the model says after these tokens, all at once."""
    ids_1T = torch.tensor([token_ids], device=model.device)
    positions_1T = torch.arange(len(token_ids), device=model.device).unsqueeze(0)
    logits_V: Tensor = model(input_ids=ids_1T, position_ids=positions_1T, use_cache=False, logits_to_keep=1).logits[
        0, -1
    ]
    return logits_V


def check_same(facts: BaseFacts, expected_V: Tensor, run: Callable[[], Tensor]) -> None:
    """Raise BaseModelError unless the engine says what the model by itself does."""
    try:
        actual_V = run()
    except UnknownAttentionError as error:
        raise refuse(facts, str(error)) from error
    difference = (actual_V.float() - expected_V.float()).norm() / expected_V.float().norm()
    if not difference < _TOLERANCE.get(expected_V.dtype, _COARSE_TOLERANCE):
        raise refuse(facts, f"in pieces it says something else than at once (a difference of {difference:.1%}).")
