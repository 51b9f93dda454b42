"""Runs a base model for many sequences at once, each with its own adapter."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Self

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from trellis.bases import BaseFacts
from trellis.engine.attention import PagedAttention, attach
from trellis.engine.backends import choose_backend
from trellis.engine.batch import Batch, Piece
from trellis.engine.compatibility import (
    TRIAL_TOKENS,
    adaptable,
    check_config,
    check_same,
    freeze_rotation,
    probe_attention,
    trial_logits,
    trial_tokens,
    usable_context,
)
from trellis.engine.cuda.graphs import graphs_for
from trellis.engine.fused import fuse, pack_head
from trellis.engine.gates import gated_layers
from trellis.engine.kv_cache import KVCache, bytes_per_block
from trellis.engine.layer import StepMemo, whole_layers
from trellis.lora.bank import AdapterBank
from trellis.lora.groups import LoraGroup, find_groups
from trellis.lora.linear import ActiveLora, install
from trellis.lora.products import exact_product
from trellis.lora.segments import Segments

Precision = Literal["auto", "fp32", "bf16"]
_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
_CPU_KV_BYTES: Final = 1 << 30
_CUDA_KV_SHARE: Final = 0.85


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """How much a runner can hold; a count of 0 is worked out from the bytes beside it."""

    kv_blocks: int = 0
    block_tokens: int = 16
    bank_rows: int = 256
    """Rank rows of the bank: what adapters of so much rank in all take if they adapt every linear, and less if not."""
    max_slots: int = 64
    """Adapters in the bank."""
    kv_bytes: int = 0
    """Of the KV cache; 0 is 1 GiB on a CPU, and most of what is free elsewhere."""
    bank_bytes: int = 0
    """Of the bank, where `bank_rows` is 0."""

    def rows(self, groups: Sequence[LoraGroup], dtype: torch.dtype) -> int:
        """Rank rows of the bank."""
        return self.bank_rows or self.bank_bytes // (sum(group.row_values for group in groups) * dtype.itemsize)

    def blocks(self, block_bytes: int, device: torch.device) -> int:
        """Blocks of the KV cache; to be asked when all else is in memory. Raises ValueError for none."""
        if self.kv_blocks:
            return self.kv_blocks
        count = (self.kv_bytes or _free_bytes(device)) // block_bytes
        if count * self.block_tokens < TRIAL_TOKENS:
            raise ValueError(f"There is room for {count} blocks of the KV cache: one takes {block_bytes} bytes.")
        return count


def _free_bytes(device: torch.device) -> int:
    if device.type == "cpu":
        return _CPU_KV_BYTES
    free, _total = torch.cuda.mem_get_info(device)
    return int(free * _CUDA_KV_SHARE)


class Runner:
    """One copy of a base model for everybody, with a bank of adapters and a paged KV cache.

    A step is one forward over the tokens of all its pieces; each row of it depends on its own sequence and adapter
    alone, so that a neighbour's NaN changes no other answer.
    """

    def __init__(
        self, model: PreTrainedModel, lora: ActiveLora, bank: AdapterBank, cache: KVCache, context_length: int
    ) -> None:
        """`load` makes one of a base."""
        self.bank = bank
        self.cache = cache
        self.context_length = context_length
        """Tokens of the longest sequence; less than the base's where its rotation depends on the length."""
        self.device = model.device
        self.dtype = model.dtype
        self._model = model
        self._lora = lora
        self._attention = PagedAttention(cache, choose_backend(cache, model.device))
        attach(model, self._attention)
        self._graphs = graphs_for(
            self._run,
            rank_of=bank.slot_rank,
            context_length=context_length,
            block_tokens=cache.block_tokens,
            device=model.device,
            dtype=model.dtype,
        )

    @classmethod
    def load(
        cls,
        facts: BaseFacts,
        limits: RunnerLimits | None = None,
        *,
        precision: Precision = "auto",
        device: str = "cpu",
    ) -> Self:
        """Read the base's weights from its folder; `auto` is fp32 on a CPU and the base's own dtype elsewhere.

        Raises BaseModelError for an architecture that would not be run right.
        """
        limits = limits or RunnerLimits()
        model = _load_model(facts, precision, device)
        context_length = usable_context(model.config.get_text_config(), facts.context_length)
        tokens = trial_tokens(facts, min(context_length, limits.kv_blocks * limits.block_tokens or TRIAL_TOKENS))
        expected_V = trial_logits(model, tokens)
        probe = probe_attention(model, facts)
        groups = find_groups(adaptable(model, facts))
        bank = AdapterBank(groups, limits.rows(groups, model.dtype), limits.max_slots, model.dtype, model.device)
        is_exact = model.device.type == "cpu" and model.dtype == torch.float32
        lora = install(model, groups, bank, make=exact_product if is_exact else None)
        pack_head(model)
        fuse(model, probe.formulas, tokens, further=[gated_layers, partial(whole_layers, memo=StepMemo())])
        blocks = limits.blocks(bytes_per_block(probe.shapes.values(), limits.block_tokens, model.dtype), model.device)
        cache = KVCache(probe.shapes, blocks, limits.block_tokens, model.dtype, model.device)
        runner = cls(model, lora, bank, cache, context_length)
        check_same(facts, expected_V, lambda: runner._trial(tokens))
        return runner

    @property
    def kv_bytes_per_block(self) -> int:
        """What one block of the KV cache takes, all layers together."""
        return self.cache.bytes_per_block

    @torch.inference_mode()
    def step(self, pieces: Sequence[Piece]) -> Tensor:
        """Run the pieces; the logits, (pieces that want them, vocabulary) in the pieces' order and the model's dtype."""
        batch = Batch.of(pieces, self.cache.block_tokens, self.device)
        assert batch.layout.most_kept <= self.context_length, "a sequence is longer than the context"
        is_plain = all(slot is None for slot, _ in batch.runs)
        segments = None if is_plain else Segments.of_runs(batch.runs)
        return self._run(batch, segments) if self._graphs is None else self._graphs.run(batch, segments)

    def _run(self, batch: Batch, segments: Segments | None) -> Tensor:
        """(N, V), with attention and adapters shown the step."""
        self._attention.layout, self._lora.segments = batch.layout, segments
        try:
            return self._forward(batch)
        finally:
            self._attention.layout = self._lora.segments = None

    def _forward(self, batch: Batch) -> Tensor:
        """(N, V): the logits of the rows that are wanted."""
        answer = self._model(
            input_ids=batch.token_ids_T.unsqueeze(0),
            position_ids=batch.positions_T.unsqueeze(0),
            use_cache=False,
            logits_to_keep=batch.kept_N,
        )
        logits_NV: Tensor = answer.logits[0]
        return logits_NV

    def _trial(self, token_ids: Sequence[int]) -> Tensor:
        """The logits after the tokens, run as a sequence is: two chunks of a prompt, then one token."""
        blocks = range(self.cache.blocks)
        cuts = sorted({0, len(token_ids) // 2, len(token_ids) - 1, len(token_ids)})
        for start, stop in itertools.pairwise(cuts[:-1]):
            self.step([Piece(token_ids[start:stop], start, blocks, None, wants_logits=False)])
        return self.step([Piece(token_ids[cuts[-2] :], cuts[-2], blocks, None, wants_logits=True)])[0]


def _load_model(facts: BaseFacts, precision: Precision, device: str) -> PreTrainedModel:
    """The model with transformers' plainest attention, against which the engine's is checked."""
    check_config(AutoConfig.from_pretrained(facts.path, local_files_only=True).get_text_config(), facts)
    dtype = _DTYPES.get(precision, torch.float32 if device == "cpu" else "auto")
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        facts.path, dtype=dtype, local_files_only=True, attn_implementation="eager"
    )
    freeze_rotation(model)
    move: Any = model.to  # its own stub is wrong
    moved: PreTrainedModel = move(device).eval().requires_grad_(False)
    return moved
