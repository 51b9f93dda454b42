"""The model that is trained: the base, whole or sharded from its first byte, frozen or quantized, with an adapter or not.

Shapes: B sequences, T positions, N trained positions.
"""

import importlib.util
from typing import Any, Final

import torch
from peft import prepare_model_for_kbit_training, set_peft_model_state_dict
from safetensors.torch import load as load_tensors
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from trellis.artifacts import WEIGHTS_FILE
from trellis.bases import BaseFacts
from trellis.errors import Reason
from trellis.objects import ObjectStore
from trellis.spec import TrainSpec
from trellis_jobs.batches import Batch
from trellis_jobs.device import Device
from trellis_jobs.distributed.zero import Layout
from trellis_jobs.failure import JobFailedError
from trellis_jobs.loss import LossHead
from trellis_jobs.model import add_adapter

NF4_BYTES: Final = 0.6
"""Bytes of a weight in NF4: half a byte, and its block's scale."""


def check_quantization(spec: TrainSpec, device: Device) -> None:
    """Raises JobFailedError where a 4-bit base can't be computed with."""
    if spec.quantization == "none":
        return
    if device.target.type != "cuda":
        message = "A 4-bit base (quantization nf4) needs a CUDA device, which this job's workers do not have."
        raise JobFailedError(Reason.TRAINING_FAILED, f"{message} Set quantization to none, or give the job GPUs.")
    if importlib.util.find_spec("bitsandbytes") is None:
        message = "A 4-bit base (quantization nf4) needs bitsandbytes, which this job's workers do not have installed."
        raise JobFailedError(Reason.TRAINING_FAILED, f"{message} Install trellis[quantized] on them.")


def load_network(spec: TrainSpec, facts: BaseFacts, device: Device, layout: Layout) -> Any:
    """A causal model of transformers, or a PeftModel around one. For ZeRO-3 HfDeepSpeedConfig must be set before."""
    transformers_logging.disable_progress_bar()
    options: dict[str, Any] = {"dtype": device.dtype, "local_files_only": True}
    if spec.quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        options["device_map"] = {"": device.target}
    model: Any = AutoModelForCausalLM.from_pretrained(facts.path, **options)
    model.config.use_cache = False
    model.requires_grad_(spec.full)
    if layout.checkpointing:
        # Reentrant under ZeRO-3: the other kind compares shapes of what it recomputes, and a sharded weight has none.
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": layout.stage == 3})
        model.enable_input_require_grads()  # else nothing before the first adapter asks for gradients, and none come
    if spec.quantization == "nf4":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model if spec.full else add_adapter(model, spec, facts)


def load_initial_adapter(network: Any, store: ObjectStore, key: str) -> None:
    """Set an adapter's first weights to those of a PEFT folder in the object store. Raises JobFailedError."""
    found: Any = set_peft_model_state_dict(network, load_tensors(store.read_bytes(f"{key}/{WEIGHTS_FILE}")))
    missing = [name for name in found.missing_keys if "lora_" in name]
    if missing or found.unexpected_keys:
        strange = (missing or found.unexpected_keys)[0]
        message = f"The adapter to start from does not have the modules and the rank of this job ({strange})."
        raise JobFailedError(Reason.TRAINING_FAILED, message)


class Scored(torch.nn.Module):
    """A causal model whose output is the losses of its trained tokens, so that all of it is one module to DeepSpeed.

    ZeRO-3 fetches weights when a module is called, and counts from the outermost one.
    """

    def __init__(self, network: Any, device: Device) -> None:
        super().__init__()
        self.network = network
        self._device = device
        self._head: LossHead | None = None

    def forward(self, batch: Batch | None = None, **inputs: Any) -> Any:
        """Losses, correctness, weights and rows of a batch's trained tokens, each (N,); or the network's logits."""
        if batch is None:
            with self._device.autocast:
                return self.network(**inputs).logits
        if self._head is None:
            self._head = LossHead(self.network, self._device)
        found = self._head(batch)
        return found.losses_N, found.correct_N, found.weights_N, found.rows_N
