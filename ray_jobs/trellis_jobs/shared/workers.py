"""Data parallel: one process leads and has the loop, the others compute a part of each pass.

Every process holds the base and the bank. The leader tells the others what to do, one command at a time. Chunks go to
processes by their number in their batch, so that what a job computes depends on the number of processes, but not on who
else is on the trainer. Followers send token losses and are sent their gradients, so that they need know nothing of
methods and data; a slot's gradients, which lie in one piece, are summed up once a batch, and its new weights sent out once
a step. Slots that had no part in it are not sent.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
from torch import Tensor, distributed

from trellis.lora import AdapterBank, HostAdapter, LoraWeights
from trellis_jobs.failure import is_out_of_memory
from trellis_jobs.loss import TokenLosses
from trellis_jobs.shared.chunk import Chunk
from trellis_jobs.shared.fused import FusedModel
from trellis_jobs.shared.work import Piece

_LEADER: Final = 0
_TIMEOUT: Final = timedelta(days=3650)
"""Followers wait for commands as long as there is nothing to do; a leader that dies cuts the connection."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Command:
    """What all processes do next; `value` is the verb's."""

    verb: str
    slot: int = -1
    value: Any = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """Sent instead of losses by a process whose part of a pass failed."""

    message: str
    out_of_memory: bool

    def to_error(self) -> Exception:
        """As if it had happened here."""
        return torch.OutOfMemoryError(self.message) if self.out_of_memory else RuntimeError(self.message)


class TeamLostError(SystemExit):
    """A process of the team is gone, so that this one must end; jobs go on elsewhere, from their checkpoints."""


def join_team(address: str, rank: int, size: int) -> None:
    """Connect this process with the others; `address` is the leader's, as `tcp://host:port`."""
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=size, timeout=_TIMEOUT)


class Share:
    """A process's own part of the work: the same for the leader and for those that follow."""

    def __init__(self, fused: FusedModel) -> None:
        self.fused = fused
        self.bank = fused.bank

    def forward(self, chunks: Sequence[Chunk], *, gradient: bool) -> list[TokenLosses] | Trouble:
        """The losses of this process's chunks."""
        try:
            with torch.set_grad_enabled(gradient):
                return self.fused.losses(chunks) if chunks else []
        except Exception as error:  # noqa: BLE001  the leader decides what becomes of it
            return Trouble(f"{type(error).__name__}: {error}", is_out_of_memory(error))

    def backward(self, losses: Sequence[Tensor]) -> Trouble | None:
        """Add the gradients of losses to those in this process's bank."""
        try:
            if losses:
                self.fused.backward(losses)
        except Exception as error:  # noqa: BLE001  the leader decides what becomes of it
            return Trouble(f"{type(error).__name__}: {error}", is_out_of_memory(error))
        return None

    def reduce(self, slot: int) -> None:
        """Sum a slot's gradients up at the leader; elsewhere they are zero afterwards."""
        gradients = self._gradients(slot)
        here = gradients.cpu()  # the same tensor on a CPU
        _together(distributed.reduce, here, _LEADER)
        if distributed.get_rank() == _LEADER:
            gradients.copy_(here)
        else:
            gradients.zero_()

    def broadcast(self, slot: int) -> None:
        """Take the leader's weights of a slot."""
        start, count = self.bank.slot_range(slot)
        weights = self.bank.values_V.detach()[start : start + count]
        here = weights.cpu()  # the same tensor on a CPU
        _together(distributed.broadcast, here, _LEADER)
        if distributed.get_rank() != _LEADER:
            weights.copy_(here)

    def clear(self, slot: int) -> None:
        """Set a slot's gradients to zero."""
        self._gradients(slot).zero_()

    def _gradients(self, slot: int) -> Tensor:
        start, count = self.bank.slot_range(slot)
        assert self.bank.values_V.grad is not None
        return self.bank.values_V.grad[start : start + count]


class Leader:
    """Spreads each pass over all processes; an Engine."""

    def __init__(self, fused: FusedModel) -> None:
        self._share = Share(fused)
        self.fused = fused
        self.bank: AdapterBank = fused.bank
        self._size = distributed.get_world_size()
        self._dirty: set[int] = set()
        """Slots with gradients in other processes."""

    def compute(self, pieces: Sequence[Piece], *, gradient: bool) -> list[Any]:
        """What the pieces' scripts make of their token losses, wherever those were computed."""
        turns = [piece.turn % self._size for piece in pieces]
        shares = [
            [p.chunk for p, turn in zip(pieces, turns, strict=True) if turn == rank] for rank in range(self._size)
        ]
        self._tell(Command("pass", value=gradient))
        _scatter(shares)
        mine = self._share.forward(shares[_LEADER], gradient=gradient)
        gathered = _gather(mine if isinstance(mine, Trouble) else None)
        if any(isinstance(found, Trouble) for found in [mine, *gathered[1:]]):
            _scatter([None] * self._size)
            _raise_any([mine, *gathered[1:]])
        return self._finish(pieces, turns, [mine, *gathered[1:]], gradient=gradient)

    def _finish(self, pieces: Sequence[Piece], turns: Sequence[int], found: list[Any], *, gradient: bool) -> list[Any]:
        """Make losses of token losses, and send their gradients to where those came from."""
        queues = [iter(part) for part in found]
        own_losses: list[Tensor] = []
        gradients: list[list[Tensor]] = [[] for _ in range(self._size)]
        findings: list[Any] = []
        try:
            for piece, turn in zip(pieces, turns, strict=True):
                losses = next(queues[turn])
                if turn != _LEADER:
                    losses = _leaf(losses, self.fused.bank.device)
                with torch.set_grad_enabled(gradient):
                    loss, finding = piece.finish(losses)
                findings.append(finding)
                if gradient and loss is not None and turn == _LEADER:
                    own_losses.append(loss)
                elif gradient and loss is not None:
                    loss.backward()
                    assert losses.losses_N.grad is not None
                    assert piece.chunk.slot is not None
                    gradients[turn].append(losses.losses_N.grad.cpu())
                    self._dirty.add(piece.chunk.slot)
        except Exception:
            _scatter([None] * self._size)
            raise
        _scatter(gradients)
        if gradient:
            _raise_any([self._share.backward(own_losses), *_gather(None)[1:]])
        return findings

    def call(self, slot: int | None) -> AbstractContextManager[Any]:
        """The model as transformers has it, in this process."""
        return self.fused.call(slot)

    def added(self, slot: int, weights: LoraWeights) -> None:
        """Let the others have the adapter, too."""
        self._tell(Command("add", slot, weights))

    def removed(self, slot: int) -> None:
        """Let the others forget the adapter."""
        self._dirty.discard(slot)
        self._tell(Command("remove", slot))

    def collect(self, slot: int) -> None:
        """Sum a slot's gradients up, if other processes have any."""
        if slot in self._dirty:
            self._dirty.discard(slot)
            self._tell(Command("reduce", slot))
            self._share.reduce(slot)

    def publish(self, slot: int) -> None:
        """Send a slot's weights to the others."""
        self._tell(Command("broadcast", slot))
        self._share.broadcast(slot)

    def clear(self, slot: int) -> None:
        """Let the others forget a slot's gradients."""
        self._dirty.discard(slot)
        self._tell(Command("clear", slot))

    def close(self) -> None:
        """Let the others end."""
        self._tell(Command("end"))

    def _tell(self, command: Command) -> None:
        _together(distributed.broadcast_object_list, [command], _LEADER)


def follow(fused: FusedModel) -> None:
    """Do what the leader says, until it says to end. Raises TeamLostError when it is gone."""
    share = Share(fused)
    groups = [bank.group for bank in share.bank.groups.values()]
    while True:
        box: list[Any] = [None]
        _together(distributed.broadcast_object_list, box, _LEADER)
        command: Command = box[0]
        match command.verb:
            case "pass":
                _follow_pass(share, gradient=command.value)
            case "add":
                slot = share.bank.add(HostAdapter.pack(command.value, groups, share.bank.dtype))
                assert slot == command.slot
            case "remove":
                share.bank.remove(command.slot)
            case "reduce":
                share.reduce(command.slot)
            case "broadcast":
                share.broadcast(command.slot)
            case "clear":
                share.clear(command.slot)
            case "end":
                return


def _follow_pass(share: Share, *, gradient: bool) -> None:
    found = share.forward(_scatter(None), gradient=gradient)
    _gather(found if isinstance(found, Trouble) else [_sent(losses) for losses in found])
    gradients = _scatter(None)
    if not gradient or gradients is None:
        return
    assert not isinstance(found, Trouble)
    weighted = zip(found, gradients, strict=True)
    _gather(share.backward([(losses.losses_N * given.to(losses.losses_N)).sum() for losses, given in weighted]))


def _raise_any(found: Sequence[Any]) -> None:
    for one in found:
        if isinstance(one, Trouble):
            raise one.to_error()


def _sent(losses: TokenLosses) -> TokenLosses:
    parts = (losses.losses_N, losses.correct_N, losses.weights_N, losses.rows_N)
    return TokenLosses(*(part.detach().cpu() for part in parts))


def _leaf(losses: TokenLosses, device: torch.device) -> TokenLosses:
    """Losses of another process, to be differentiated by."""
    own = losses.losses_N.to(device).requires_grad_()
    return TokenLosses(own, losses.correct_N.to(device), losses.weights_N.to(device), losses.rows_N.to(device))


def _scatter(values: Sequence[Any] | None) -> Any:
    """What the leader has for this process."""
    box: list[Any] = [None]
    _together(distributed.scatter_object_list, box, None if values is None else list(values), _LEADER)
    return box[0]


def _gather(value: Any) -> list[Any]:
    """What all processes have, at the leader."""
    leads = distributed.get_rank() == _LEADER
    found: list[Any] | None = [None] * distributed.get_world_size() if leads else None
    _together(distributed.gather_object, value, found, _LEADER)
    return found or []


def _together(collective: Callable[..., Any], *given: Any) -> None:
    try:
        collective(*given)
    except RuntimeError as error:
        _log.critical("A process of the trainer is gone (%s); all of it ends.", error)
        raise TeamLostError(1) from error
