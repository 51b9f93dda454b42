"""The entrypoint of a shared trainer: `python -m trellis_jobs.shared.main`.

TRELLIS_WORKER_ENDPOINT says where the server is, TRELLIS_TRAINER_TICKET which trainer this is; settings.py has what else
the environment may say. The exit status is 0 when the server let it go, 3 when it is fenced, 4 when it hung, 1 otherwise.
"""

import importlib.metadata
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any, Final, NoReturn

import torch

from trellis import tracing
from trellis.base_cache.waiting import read_base_in_time
from trellis.bases import BaseModelError
from trellis.lora import find_groups
from trellis.spec import Lora, TrainSpec
from trellis.tokens import ChatTokenizer
from trellis.v1.trainer_pb2 import StartTrainerResponse
from trellis_jobs.device import choose_device, limit_threads
from trellis_jobs.examples import Row
from trellis_jobs.model import load_base
from trellis_jobs.shared.attempt import Attempt
from trellis_jobs.shared.chunk import Chunk
from trellis_jobs.shared.claims import Claims, TrainerServer
from trellis_jobs.shared.engine import Engine, OneProcess
from trellis_jobs.shared.fused import FusedModel
from trellis_jobs.shared.intake import Intake
from trellis_jobs.shared.memory import Room, affordable_tokens, bank_rows, free_bytes, longest_line, pass_bytes
from trellis_jobs.shared.preparation import SharedBase
from trellis_jobs.shared.settings import Settings
from trellis_jobs.shared.slots import Slots
from trellis_jobs.shared.team import lead
from trellis_jobs.shared.tenant import Surroundings
from trellis_jobs.shared.trainer import Trainer
from trellis_jobs.shared.watchdog import Watchdog
from trellis_jobs.shared.weights import fresh_weights
from trellis_jobs.shared.work import Piece
from trellis_jobs.spans import start_tracing

_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_READERS: Final = 2
_CALLERS: Final = 64
_GOODBYE_SECONDS: Final = 5.0
_ASK_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)


def main() -> int:
    """Train until the server lets the process go; its exit status."""
    logging.basicConfig(level=logging.INFO, format=_FORMAT, stream=sys.stderr, force=True)
    start_tracing("trellis-trainer")
    limit_threads()
    signal.signal(signal.SIGTERM, _end_now)
    code_version, endpoint = importlib.metadata.version("trellis"), os.environ["TRELLIS_WORKER_ENDPOINT"]
    server = TrainerServer(endpoint, os.environ.pop("TRELLIS_TRAINER_TICKET"))
    work = server.start(code_version)
    intake = Intake(endpoint, code_version)
    claims = Claims(server, work.heartbeat_seconds, intake.status, intake.begin)
    claims.start()
    try:
        trainer, room = build(work, claims.renew, OneProcess if work.workers <= 1 else partial(lead, work))
    except BaseModelError:
        _log.exception("The base model of this trainer can't be used.")
        return 1
    intake.open(room, trainer)
    claims.renew()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: trainer.stop())
    leaving = Leaving(server, claims, work.idle_seconds)
    trainer.run(leaving)
    if not leaving.left:
        _say_goodbye(server)
    return 0


def build(
    work: StartTrainerResponse, renew: Callable[[], None], engine_of: Callable[[FusedModel], Engine] = OneProcess
) -> tuple[Trainer, Room]:
    """Load the base and make room for jobs. Raises BaseModelError."""
    device = choose_device(work.precision)  # type: ignore[arg-type]  # one of its values, by the contract
    settings = Settings.read(device)
    facts = read_base_in_time(work.base_source, work.base_revision)
    tokenizer = ChatTokenizer.load(facts.path)
    if work.tokenizer_digest and tokenizer.digest != work.tokenizer_digest:
        message = f"The tokenizer or chat template of {work.base_model} is no longer the registered one"
        raise BaseModelError(f"{message}; register it anew.")
    model: Any = load_base(facts, device)
    max_jobs = settings.max_jobs or work.max_jobs or 1
    free = free_bytes(device.target)
    rows = settings.rank_rows or bank_rows(find_groups(facts.linear_shapes), free, max_jobs)
    fused = FusedModel(model, facts, device, rank_rows=rows, max_slots=max_jobs)
    budget = pass_bytes(free)
    room = Room(
        max_jobs,
        rows,
        longest_line(fused.activation_bytes, budget, fused.context_length),
        [bank.group for bank in fused.bank.groups.values()],
    )
    base = SharedBase(work.base_model, facts, tokenizer, device, settings.chunk_tokens)
    engine = engine_of(fused)
    around = Surroundings(
        base,
        Slots(fused.bank, engine),
        engine,
        ThreadPoolExecutor(_READERS, thread_name_prefix="reader"),
        ThreadPoolExecutor(_CALLERS, thread_name_prefix="caller"),
    )
    warm_up(around)
    watchdog = Watchdog(settings.stall_seconds)

    def departed(attempt: Attempt) -> None:
        room.give_back(attempt)
        renew()

    pass_tokens = affordable_tokens(fused.activation_bytes, budget, settings.pass_tokens)
    _log.info("Room for %d jobs, %d rank rows and lines of %d tokens.", max_jobs, rows, room.line_tokens)
    return Trainer(around, pass_tokens, watchdog, departed), room


def warm_up(around: Surroundings) -> None:
    """Run a small pass forward and backward, so that the first job's first step need not wait for what is made once."""
    base = around.base
    names = base.facts.linear_names
    spec = TrainSpec("", "", "", "", "", "", context_length=16, lora=Lora(rank=min(8, around.slots.bank.rows)))
    slot, optimizer = around.slots.add(fresh_weights(spec, base.facts, names), spec)
    ids_T = torch.arange(1, 17) % base.facts.vocabulary_size
    chunk = Chunk((Row(ids_T, torch.ones(16)),), slot)
    around.engine.compute([Piece(chunk, lambda found: (found.weighted, None))], gradient=True)
    optimizer.clip()
    optimizer.step(0, 1)
    around.slots.remove(slot)


class Leaving:
    """Whether the trainer may end: when it is drained, or has had no job for so long, and the server agrees."""

    def __init__(
        self, server: TrainerServer, claims: Claims, idle_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._server = server
        self._claims = claims
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._since = clock()
        self._asked_at = -_ASK_SECONDS
        self._asking: Future[bool] | None = None
        self._caller = ThreadPoolExecutor(1, thread_name_prefix="leaving")
        self.left = False
        """Whether the server has let the trainer go."""

    def __call__(self, jobs: int) -> bool:
        """Asked whenever there is nothing to compute; does not wait for the server's answer."""
        now = self._clock()
        if jobs:
            self._since = now
        if self._asking is not None and self._asking.done():
            self.left, self._asking = self._asking.result(), None
        elif not self.left and self._asking is None and not jobs and self._is_due(now):
            self._asked_at = now
            self._asking = self._caller.submit(self._server.leave)
        return self.left

    def _is_due(self, now: float) -> bool:
        idle = self._claims.drain.is_set() or now - self._since >= self._idle_seconds
        return idle and now - self._asked_at >= _ASK_SECONDS


def _say_goodbye(server: TrainerServer) -> None:
    """Tell the server, if it listens, that a trainer that was told to end has nothing any more."""
    goodbye = threading.Thread(target=server.leave, daemon=True)
    goodbye.start()
    goodbye.join(_GOODBYE_SECONDS)


def _end_now(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _run() -> NoReturn:
    """End with main's status at once: threads that wait for the server must not hold the process."""
    try:
        status = main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except Exception:  # noqa: BLE001  the log has it; the server sees the lease end
        _log.exception("The trainer ends.")
        status = 1
    tracing.stop()
    logging.shutdown()
    os._exit(status)


if __name__ == "__main__":
    _run()
