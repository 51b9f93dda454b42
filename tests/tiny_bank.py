"""An adapter bank beside no model, and adapters for it that are their digest's own: for tests of who gets a place."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import torch

from trellis.engine.request import AdapterRef
from trellis.engine.tiers import AdapterTiers, TierEvent
from trellis.lora.bank import AdapterBank
from trellis.lora.groups import find_groups
from trellis.lora.host import HostAdapter
from trellis.lora.weights import LoraPair, LoraWeights

LINEAR = "model.layers.0.mlp.down_proj"


class Inline(Executor):
    """Does at once what is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  as an executor's thread does
            future.set_exception(error)
        return future


class Held(Executor):
    """Does what is submitted when it is told to, one after another."""

    def __init__(self) -> None:
        self.held: list[Callable[[], None]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            try:
                found = fn(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  as an executor's thread does
                future.set_exception(error)
            else:
                future.set_result(found)

        self.held.append(work)
        return future

    def release(self, number: int = 1) -> None:
        """Do the next ones."""
        for _ in range(number):
            self.held.pop(0)()


def tiny_bank(rows: int = 32, slots: int = 8) -> AdapterBank:
    groups = find_groups({LINEAR: (8, 8)})
    return AdapterBank(groups, rows, slots, torch.float32, torch.device("cpu"))


def tiny_tiers(bank: AdapterBank, executor: Executor | None = None, **options: Any) -> AdapterTiers:
    """Over adapters whose key is their rank."""
    return AdapterTiers(bank, load_tiny(bank), executor or Inline(), **options)


def load_tiny(bank: AdapterBank) -> Callable[[str, str], HostAdapter]:
    groups = [group.group for group in bank.groups.values()]

    def load(digest: str, key: str) -> HostAdapter:
        rank = int(key)
        pair = LoraPair(torch.ones(rank, 8), torch.ones(8, rank), 1.0)
        return HostAdapter.pack(LoraWeights(digest, {LINEAR: pair}), groups, torch.float32, pin=False)

    return load


def ref(digest: str, rank: int = 8) -> AdapterRef:
    return AdapterRef(digest, str(rank))


class Events:
    """Remembers what happened to adapters."""

    def __init__(self) -> None:
        self.seen: list[TierEvent] = []

    def __call__(self, event: TierEvent) -> None:
        self.seen.append(event)

    def count(self, event: TierEvent) -> int:
        return self.seen.count(event)
