"""Where adapters are: in the object store, in the host's memory, or in the bank beside the base."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from enum import StrEnum
from queue import Empty, SimpleQueue

from trellis.engine.request import AdapterRef
from trellis.errors import InternalError, Reason, TrellisError, error_for
from trellis.lora.bank import AdapterBank
from trellis.lora.host import HostAdapter

Load = Callable[[str, str], HostAdapter]
"""Fetches and checks an adapter, by digest and key; blocks, and raises TrellisError."""


class TierEvent(StrEnum):
    """What happens to adapters; for counting."""

    USED = "used"
    """Answers began, or went on, with one from the bank; less those that were copied, the ones that found it there."""
    FETCHED = "fetched"
    """From the object store into the host's memory."""
    FAILED = "failed"
    """Could not be fetched."""
    COPIED = "copied"
    """From the host's memory into the bank."""
    EVICTED = "evicted"
    """From the bank; the next use copies it again."""
    DROPPED = "dropped"
    """From the host's memory; the next use fetches it again."""


@dataclass(frozen=True, slots=True)
class FailedLoad:
    """An adapter that could not be loaded; the next request for it tries again."""

    digest: str
    error: TrellisError


@dataclass(slots=True)
class _Resident:
    """A place in the bank; while it is in use, nobody else gets it."""

    slot: int
    values: int
    in_use: bool = False


class AdapterTiers:
    """Brings adapters closer before they are needed, and lets go of the least recently used.

    Only the engine's thread calls it; loads run in the executor, and their ends are taken in by `poll`. An adapter is
    known by its digest, which is of its content: a retrained one is another, and nothing here ever becomes stale.
    """

    def __init__(
        self,
        bank: AdapterBank,
        load: Load,
        executor: Executor,
        host_bytes: int = 4 << 30,
        on_event: Callable[[TierEvent], None] = lambda _: None,
    ) -> None:
        self._bank = bank
        self._load = load
        self._executor = executor
        self._host_bytes = host_bytes
        self._on_event = on_event
        self._loading: set[str] = set()
        self._ended: SimpleQueue[tuple[str, Future[HostAdapter]]] = SimpleQueue()
        self._host: dict[str, HostAdapter] = {}  # this and the next: the least recently used first
        self._host_used = 0
        self._residents: dict[str, _Resident] = {}
        self._pins: Counter[str] = Counter()
        self.on_load_end: Callable[[], None] = lambda: None
        """Called in the load's thread when there is something to `poll`."""
        self.on_evict: Callable[[str], None] = lambda _: None
        """Called with an adapter that is no longer in the bank."""

    @property
    def loading(self) -> int:
        """Loads that have not been taken in."""
        return len(self._loading)

    @property
    def has_news(self) -> bool:
        """Whether a load has ended that was not taken in."""
        return not self._ended.empty()

    @property
    def pins(self) -> int:
        """Answers that use an adapter, those that are parked among them."""
        return sum(tuple(self._pins.values()))  # other threads ask, too

    @property
    def resident_digests(self) -> tuple[str, ...]:
        """The adapters in the bank."""
        return tuple(self._residents)

    @property
    def host_digests(self) -> tuple[str, ...]:
        """The adapters in the host's memory."""
        return tuple(self._host)

    @property
    def host_bytes(self) -> int:
        """What they take there."""
        return self._host_used

    def is_resident(self, digest: str) -> bool:
        """Whether it is in the bank."""
        return digest in self._residents

    def is_at_hand(self, digest: str) -> bool:
        """Whether it is in the host's memory, one copy away from the bank."""
        return digest in self._host

    def fetch(self, ref: AdapterRef) -> None:
        """Begin to load it into the host's memory, if it is neither there nor on its way nor in the bank."""
        if ref.digest in self._loading or ref.digest in self._host or ref.digest in self._residents:
            return
        loading = self._executor.submit(self._load, ref.digest, ref.key)
        self._loading.add(ref.digest)
        loading.add_done_callback(lambda ended: self._end(ref.digest, ended))

    def poll(self) -> list[FailedLoad]:
        """Take in the loads that have ended; those that failed."""
        failed: list[FailedLoad] = []
        while True:
            try:
                digest, ended = self._ended.get_nowait()
            except Empty:
                return failed
            self._loading.discard(digest)
            found = self._result(digest, ended)
            if isinstance(found, TrellisError):
                self._on_event(TierEvent.FAILED)
                failed.append(FailedLoad(digest, found))
            else:
                self._on_event(TierEvent.FETCHED)
                self._host[digest] = found
                self._host_used += found.nbytes

    def stock(self, wanted: Iterable[AdapterRef], copies: int) -> int:
        """Fetch what is wanted, and copy at most `copies` adapters into the bank; how many were.

        What comes earlier in `wanted` is never evicted for what comes later, and where one lacks room, none that comes
        later takes what becomes free.
        """
        copied = 0
        sooner: dict[str, None] = {}
        room = True
        for ref in wanted:
            if ref.digest in sooner:
                continue
            if ref.digest not in self._residents:
                self.fetch(ref)
                if room and copied < copies and ref.digest in self._host:
                    room = self.copy(ref.digest, sooner)
                    copied += room
            sooner[ref.digest] = None
        self._shrink(sooner)
        return copied

    def would_fit(self, digest: str, without: Collection[str] = (), keep: Collection[str] = ()) -> bool:
        """Whether there is room in the bank without these, and without those that nobody uses but the ones to keep."""
        leaving = [r for d, r in self._residents.items() if d in without or not (r.in_use or d in keep)]
        return self._fits(self._host[digest].values, leaving)

    def copy(self, digest: str, keep: Collection[str] = ()) -> bool:
        """Into the bank; whether there was room. Nothing is evicted when that would not make enough of it."""
        adapter = self._host.pop(digest)
        self._host[digest] = adapter  # the most recently used now
        if not self.would_fit(digest, keep=keep):
            return False
        for oldest in [d for d, resident in self._residents.items() if not (resident.in_use or d in keep)]:
            if self._bank.fits(adapter.values):
                break
            self._evict(oldest)
        self._residents[digest] = _Resident(self._bank.add(adapter), adapter.values)
        self._on_event(TierEvent.COPIED)
        return True

    def pin(self, digest: str) -> int:
        """Its slot in the bank, which it keeps until `unpin` was called as often, or `park`."""
        self._pins[digest] += 1
        return self._use(digest)

    def unpin(self, digest: str) -> None:
        """One user less, parked or not."""
        self._pins[digest] -= 1
        assert self._pins[digest] >= 0, "an adapter was let go of twice"
        if self._pins[digest]:
            return
        del self._pins[digest]
        if digest in self._residents:
            self._residents[digest].in_use = False

    def park(self, digest: str) -> None:
        """Its users do without it until `resume`: it may be evicted, but stays in the host's memory."""
        self._residents[digest].in_use = False

    def resume(self, digest: str) -> int:
        """Its slot, perhaps another one, for those who were parked."""
        return self._use(digest)

    def forget(self, digest: str) -> None:
        """Let go of an adapter that will not be called again, as far as nobody uses it."""
        if self._pins[digest]:
            return
        if digest in self._residents:
            self._evict(digest)
        if digest in self._host:
            self._drop(digest)

    def _use(self, digest: str) -> int:
        resident = self._residents.pop(digest)
        self._residents[digest] = resident  # the most recently used now
        resident.in_use = True
        self._on_event(TierEvent.USED)
        return resident.slot

    def _end(self, digest: str, ended: "Future[HostAdapter]") -> None:
        self._ended.put((digest, ended))
        self.on_load_end()

    def _result(self, digest: str, ended: "Future[HostAdapter]") -> HostAdapter | TrellisError:
        error: BaseException | None = InternalError(Reason.INTERNAL, "The engine is stopping.")
        if not ended.cancelled():
            error = ended.exception()
            if error is None:
                return self._checked(ended.result())
        if isinstance(error, TrellisError):
            return error
        message = f"The adapter {digest[:24]} could not be loaded: {error}"
        return InternalError(Reason.INTERNAL, message, metadata={"adapter_digest": digest})

    def _checked(self, adapter: HostAdapter) -> HostAdapter | TrellisError:
        if adapter.values <= self._bank.size:
            return adapter
        rows = -(-adapter.values // self._bank.row_values)
        message = f"The adapter {adapter.digest[:24]} takes {rows} rank rows; the engine has {self._bank.rows}."
        return error_for(Reason.ADAPTER_INVALID, message, metadata={"adapter_digest": adapter.digest})

    def _fits(self, values: int, leaving: Collection[_Resident]) -> bool:
        slots = self._bank.max_slots - len(self._residents) + len(leaving)
        return slots > 0 and self._bank.values_free + sum(resident.values for resident in leaving) >= values

    def _evict(self, digest: str) -> None:
        self._bank.remove(self._residents.pop(digest).slot)
        self.on_evict(digest)
        self._on_event(TierEvent.EVICTED)

    def _shrink(self, keep: Collection[str]) -> None:
        """Drop what the host's memory has no room for, but for what is wanted soon and not in the bank yet.

        What answers use goes last: from then on it can't leave the bank before they end.
        """
        if self._host_used <= self._host_bytes:
            return
        found = [d for d in self._host if d in self._residents or not (d in keep or self._pins[d])]
        for digest in sorted(found, key=lambda digest: self._pins[digest] > 0):
            if self._host_used <= self._host_bytes:
                return
            self._drop(digest)

    def _drop(self, digest: str) -> None:
        self._host_used -= self._host.pop(digest).nbytes
        self._on_event(TierEvent.DROPPED)
