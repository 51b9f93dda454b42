"""One base model and the adapters of many jobs, computed in one pass.

Shapes: B rows of an ordinary call, T tokens.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from trellis.bases import BaseFacts
from trellis.engine.attention import IMPLEMENTATION, attach
from trellis.engine.compatibility import (
    TRIAL_TOKENS,
    adaptable,
    check_config,
    check_same,
    freeze_rotation,
    probe_attention,
    trial_tokens,
    usable_context,
)
from trellis.engine.fused import fuse
from trellis.lora import AdapterBank, HostAdapter, LoraPair, LoraWeights, Segments, find_groups, install
from trellis.lora.linear import LoraLinear
from trellis.lora.products import training_product
from trellis.native.linear import DifferentiableLinear, serves
from trellis.native.training import cross_entropy
from trellis_jobs.device import Device
from trellis_jobs.examples import Row
from trellis_jobs.loss import LossHead, TokenLosses
from trellis_jobs.shared.activations import ActivationCost, peak_bytes
from trellis_jobs.shared.attention import PackedAttention, SequenceGroups
from trellis_jobs.shared.chunk import Chunk
from trellis_jobs.shared.dropout import ChunkDropout
from trellis_jobs.shared.invariance import depends_on_neighbours
from trellis_jobs.shared.packed import Packed

_log = logging.getLogger(__name__)
_LOGITS_AT_ONCE = 3
"""Logits, their log-softmax, and its gradient."""
_TRIAL_RANK = 8
_CHECKPOINTING = {"use_reentrant": False, "preserve_rng_state": False}


class FusedModel:
    """A frozen base with a bank of adapters, which computes the losses and gradients of many jobs' chunks at once.

    What a chunk gives depends on the chunk and its adapter alone, bit for bit, in float32 on a CPU whose products are as
    ADR 0008 says. The base's own dropout, if it has any, is off.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        facts: BaseFacts,
        device: Device,
        *,
        rank_rows: int,
        max_slots: int,
        gradient_checkpointing: bool = False,
    ) -> None:
        """Take over a loaded model, which is changed; the bank holds `max_slots` adapters, whose ranks are `rank_rows`
        together if all of them adapt all linears.

        With `gradient_checkpointing` layers are computed a second time for their gradients instead of kept: a third more
        time for a fraction of the memory. Raises BaseModelError for an architecture that would be computed wrongly.
        """
        check_config(model.config.get_text_config(), facts)
        freeze_rotation(model)
        self.model = model.eval().requires_grad_(False)
        self.context_length = usable_context(model.config.get_text_config(), facts.context_length)
        """Tokens of the longest sequence; less than the base's where its rotation depends on the length."""
        self._device = device
        self._plain_attention: str = model.config._attn_implementation  # noqa: SLF001 - there is no other way to ask
        trial = _trial(facts, self.context_length)
        expected_N = _plain_losses(model, trial, device)
        _quicken_head(model)
        self._head = LossHead(model, device)
        probe = probe_attention(model, facts)
        self._attention = PackedAttention()
        attach(model, self._attention)
        groups = find_groups(adaptable(model, facts))
        self.bank = AdapterBank(groups, rank_rows, max_slots, torch.float32, device.target)
        """The jobs' adapters, float32; backward adds to the `.grad` of its numbers."""
        self.bank.require_gradients()
        self._groups = groups
        self._active = install(model, groups, self.bank, make=training_product)
        if device.dtype is torch.float32:
            fuse(model, probe.formulas, trial_tokens(facts, min(self.context_length, TRIAL_TOKENS)))
            attach(model, self._attention)
        self._layers = _checkpointed_layers(model, facts) if gradient_checkpointing else []
        self._pass: _Pass | None = None
        check_same(facts, expected_N, lambda: self._try(trial))
        self._tell_of_rows()
        windows = [formula.sliding_window for formula in probe.formulas.values() if formula.sliding_window]
        self._cost = ActivationCost.measure(
            self._peak_of,
            head_row=_LOGITS_AT_ONCE * 4 * facts.vocabulary_size,
            head_rows=self._head.piece_rows,
            window=min(windows, default=0),
        )

    def losses(self, chunks: Sequence[Chunk]) -> list[TokenLosses]:
        """The losses of each chunk's trained tokens, all in one forward; with gradients if they are enabled.

        `rows_N` counts sequences inside the chunk. Dropout is applied where there are gradients. Raises ValueError for a
        sequence that is longer than the context.
        """
        done = self._lay_out(chunks)
        packed = done.packed
        with self._showing(done):
            found = self._head.at(packed.ids_1T, packed.positions_1T, packed.places_N, packed.targets_N)
        self._pass = done if torch.is_grad_enabled() else self._pass
        return packed.parted(*found)

    def backward(self, losses: Sequence[Tensor]) -> None:
        """Add the gradients of the sum of losses, scalars of the last pass with gradients, to those in the bank.

        Those of adapters that had no chunk in the pass stay as they are, also when a loss is not finite.
        """
        wanted = [loss for loss in losses if loss.requires_grad]
        assert self._pass is not None, "backward before a pass with gradients"
        done, self._pass = self._pass, None
        if wanted:
            with self._showing(done):
                torch.autograd.backward(wanted)

    def activation_bytes(self, tokens: int, longest: int) -> int:
        """Bytes that a pass of so many tokens takes beside weights and bank, its longest sequence having `longest`.

        Measured on small passes without dropout, which takes two more tensors for every group of linears.
        """
        return self._cost.bytes(tokens, longest)

    @contextlib.contextmanager
    def call(self, slot: int | Sequence[int | None] | None) -> Iterator[PreTrainedModel]:
        """The model as transformers knows it, to be called or to generate with, inside the context.

        All rows have the adapter of `slot` (None: the base alone), or row b of a batch that of `slot[b]`.
        """

        def place(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            ids = next(x for x in (*args, named.get("input_ids"), named.get("inputs_embeds")) if x is not None)
            count, tokens = ids.shape[:2]
            slots = slot if isinstance(slot, Sequence) else [slot] * count
            if len(slots) != count:
                raise ValueError(f"The batch has {count} rows, but slots for {len(slots)} are given.")
            self._active.segments = Segments.of_runs([(each, tokens) for each in slots])

        self.model.set_attn_implementation(self._plain_attention)
        hook = self.model.base_model.register_forward_pre_hook(place, with_kwargs=True)
        try:
            yield self.model
        finally:
            hook.remove()
            self._active.segments = None
            self.model.set_attn_implementation(IMPLEMENTATION)

    def _lay_out(self, chunks: Sequence[Chunk]) -> "_Pass":
        packed = Packed.of(chunks, self._device.target)
        longest = max(packed.lengths)
        if longest > self.context_length:
            message = f"A sequence has {longest} tokens; the base model takes {self.context_length}."
            raise ValueError(f"{message} Set context_length to that, or shorten the lines.")
        rows = packed.ids_1T.shape[1]
        segments = Segments.apart(packed.runs)
        groups = SequenceGroups(packed.lengths, rows, self._device.target)
        drops = any(chunk.dropout and chunk.slot is not None for chunk in chunks)
        return _Pass(packed, segments, groups, ChunkDropout(chunks, self._groups) if drops else None)

    @contextlib.contextmanager
    def _showing(self, done: "_Pass") -> Iterator[None]:
        """Let attention, adapters and layers know of the pass, in backward too: with checkpointing they run again there."""
        self._active.segments, self._active.dropout = done.segments, done.dropout
        self._attention.groups = done.groups
        for layer in self._layers:
            layer.training = True
        try:
            yield
        finally:
            self._active.segments = self._active.dropout = self._attention.groups = None
            for layer in self._layers:
                layer.training = False

    def _tell_of_rows(self) -> None:
        """Say so where a job's bits depend on what runs beside it; its results are right all the same."""
        if self._device.target.type == "cpu" and self._device.dtype is torch.float32:
            # Those that PyTorch multiplies; an embedding is only read, and our own products depend on the row alone.
            linears = (m for m in self.model.modules() if isinstance(m, torch.nn.Linear | LoraLinear))
            shape = depends_on_neighbours(m.weight for m in linears if hasattr(m, "weight"))
            if shape is not None:
                what = f"products with a weight of {shape[0]} x {shape[1]} round a row differently beside other rows"
                _log.warning("On this machine %s: jobs are as precise as ever, but not the same bits each time.", what)

    def _peak_of(self, sequences: int, tokens: int) -> int:
        """The peak of a pass with gradients; one token of each sequence is trained, logits are counted separately."""
        tokens = min(tokens, self.context_length)
        weights_T = torch.zeros(tokens + 1)
        weights_T[-1] = 1.0
        row = Row(torch.ones(tokens + 1, dtype=torch.int64), weights_T)
        slot = self.bank.add(HostAdapter.pack(self._trial_weights(), self._groups, self.bank.dtype))
        chunk = Chunk((row,) * sequences, slot)
        own = self.bank.values_V, self.bank.values_V.grad
        known = [*self.model.parameters(), *self.model.buffers(), *(values for values in own if values is not None)]
        try:
            return peak_bytes(lambda: self._learn(chunk), self._device.target, known)
        finally:
            self.bank.remove(slot)

    def _trial_weights(self) -> LoraWeights:
        """Zeros on all linears."""
        rank = min(_TRIAL_RANK, self.bank.rows)
        pairs = {
            part: LoraPair(torch.zeros(rank, group.in_features), torch.zeros(outs, rank), 1.0)
            for group in self._groups
            for part, outs in zip(group.parts, group.out_features, strict=True)
        }
        return LoraWeights("", pairs)

    def _learn(self, chunk: Chunk) -> None:
        self.backward([self.losses([chunk])[0].weighted])

    @torch.no_grad()
    def _try(self, chunks: Sequence[Chunk]) -> Tensor:
        return torch.cat([found.losses_N for found in self.losses(chunks)])


class _Pass:
    """What the modules of the model have to know of one forward and its backward."""

    def __init__(
        self, packed: Packed, segments: Segments, groups: SequenceGroups, dropout: ChunkDropout | None
    ) -> None:
        self.packed, self.segments, self.groups, self.dropout = packed, segments, groups, dropout


def _trial(facts: BaseFacts, context_length: int) -> list[Chunk]:
    """Two sequences of unlike lengths, one behind the other."""
    chunks = []
    for count in (context_length, 23):
        ids_T = torch.tensor(trial_tokens(facts, min(count, context_length)))
        chunks.append(Chunk((Row(ids_T, torch.ones(len(ids_T))),), None))
    return chunks


class _Head(torch.nn.Module):
    """An output head whose frozen weight lies in other orders; where it is tied, the embedding has its own."""

    def __init__(self, head: torch.nn.Linear) -> None:
        super().__init__()
        self._product = DifferentiableLinear(head.weight.data, getattr(head.bias, "data", None))

    def forward(self, x: Tensor) -> Tensor:
        """The logits of the rows."""
        return self._product(x)

    def say(self, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        """See trellis_jobs.loss.Piece; no gradients flow through it."""
        return cross_entropy(self._product.forth(hidden_ND), targets_N)

    def learn(self, hidden_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See trellis_jobs.loss.Learn; no gradients flow through it."""
        logits_NV = self._product.forth(hidden_ND)
        losses_N, first_N = cross_entropy(logits_NV, targets_N)
        return losses_N, first_N, self._product.back(logits_NV)


def _is_ours(weight_OI: Tensor) -> bool:
    return weight_OI.dtype is torch.float32 and serves(weight_OI) and serves(weight_OI.T)


def _quicken_head(model: PreTrainedModel) -> None:
    head = model.get_output_embeddings()
    if type(head) is torch.nn.Linear and _is_ours(head.weight):
        model.set_output_embeddings(_Head(head))


@torch.no_grad()
def _plain_losses(model: Any, chunks: Sequence[Chunk], device: Device) -> Tensor:
    """The losses as the model computes them by itself, one sequence at a time."""
    found = []
    for chunk in chunks:
        ids_1T = chunk.rows[0].ids_T[None].to(device.target)
        logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float()
        found.append(torch.nn.functional.cross_entropy(logits_TV, ids_1T[0, 1:], reduction="none"))
    return torch.cat(found)


def _checkpointed_layers(model: PreTrainedModel, facts: BaseFacts) -> list[torch.nn.Module]:
    """Make the layers forget what they computed; they do so while they are in training."""
    if not model.supports_gradient_checkpointing:
        _log.warning("%s can't compute its layers twice; its passes take more memory.", facts.architecture)
        return []
    model.activation_checkpointing_enable(_CHECKPOINTING)
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
