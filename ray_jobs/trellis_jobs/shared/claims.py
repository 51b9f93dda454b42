"""The trainer as the server knows it: its lease, what it has room for, and the attempts that it is given."""

import logging
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from trellis.v1 import trainer_pb2
from trellis.v1.trainer_pb2_grpc import TrainerServiceStub
from trellis_jobs.server import Connection, FencedError, RefusedError, exit_fenced, pauses

_SPARE_SECONDS: Final = 10.0
_REPEATED_PAUSE: Final = 0.2
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """What the server is told with each claim."""

    room: trainer_pb2.TrainerRoom | None
    """None while the base is being loaded."""
    jobs: int = 0
    tokens_per_second: float = 0.0


class TrainerServer(Connection):
    """TrainerService, with the trainer's token. When the trainer is fenced, the process ends at once, but for one that
    has asked to leave: it has nothing to lose."""

    def __init__(self, endpoint: str, token: str) -> None:
        super().__init__(endpoint, token, self._end_unless_leaving)
        self._leaving = False
        self._stub = TrainerServiceStub(self._channel)
        self._claim: Any = None
        self._hurried = False

    def start(self, code_version: str) -> trainer_pb2.StartTrainerResponse:
        """Get base and settings, and for a ticket the trainer's token."""
        request = trainer_pb2.StartTrainerRequest(
            code_version=code_version, hostname=socket.gethostname(), pid=os.getpid(), nonce=self._nonce
        )
        answer = self._call(self._stub.StartTrainer, request)
        self._use(answer.token)
        return answer

    def leave(self) -> bool:
        """Ask to end, as there is nothing to do; whether the trainer is over now."""
        self._leaving = True
        try:
            self._leaving = self._call(self._stub.LeaveTrainer, trainer_pb2.LeaveTrainerRequest()).leave
        except FencedError:
            _log.info("The trainer is over already.")
        return self._leaving

    def _end_unless_leaving(self) -> None:
        if not self._leaving:
            exit_fenced()

    def claim(
        self, status: Callable[[], Status], wait_seconds: Callable[[Status], float]
    ) -> trainer_pb2.ClaimAttemptsResponse | None:
        """Wait for attempts once; an empty answer if `hurry` ended the wait, None if there was none.

        Raises RefusedError.
        """
        self._hurried = False
        now = status()
        request = trainer_pb2.ClaimAttemptsRequest(
            room=now.room, wait_seconds=wait_seconds(now), jobs=now.jobs, tokens_per_second=now.tokens_per_second
        )
        timeout = request.wait_seconds + _SPARE_SECONDS
        self._claim = self._stub.ClaimAttempts.future(request, metadata=self._metadata, timeout=timeout)
        if self._hurried:
            self._claim.cancel()
        try:
            return self._claim.result()  # type: ignore[no-any-return]
        except grpc.FutureCancelledError:
            return trainer_pb2.ClaimAttemptsResponse()
        except grpc.RpcError as error:
            self._judge(error)
            return None

    def hurry(self) -> None:
        """End the wait of `claim`, as the status has changed. What the server was about to give, it gives again."""
        self._hurried = True
        if self._claim is not None:
            self._claim.cancel()


class Claims:
    """A thread that keeps the lease and hands on each attempt that is given, once."""

    def __init__(
        self,
        server: TrainerServer,
        heartbeat_seconds: float,
        status: Callable[[], Status],
        begin: Callable[[trainer_pb2.ClaimedAttempt], None],
    ) -> None:
        self._server = server
        self._wait_seconds = heartbeat_seconds / 2 if heartbeat_seconds > 0 else 5.0
        self._status = status
        self._begin = begin
        self._seen: set[tuple[str, int]] = set()
        self._closing = threading.Event()
        self.drain = threading.Event()
        """Set once nothing further will be given."""
        self._thread = threading.Thread(target=self._run, name="claims", daemon=True)

    def start(self) -> None:
        """Claim from now on."""
        self._thread.start()

    def renew(self) -> None:
        """There is other room than the server was told of: tell it at once."""
        self._server.hurry()

    def close(self) -> None:
        """Claim no longer."""
        self._closing.set()
        self._server.hurry()
        self._thread.join()

    def _run(self) -> None:
        tries = pauses()
        while not self._closing.is_set():
            try:
                answer = self._server.claim(self._status, self._patience)
            except FencedError:
                return  # the trainer has left
            except RefusedError:
                _log.exception("The server does not take this trainer's claims; it ends when its jobs have.")
                self.drain.set()
                return
            if answer is None:
                self._closing.wait(next(tries))
                continue
            tries = pauses()
            self._take(answer)

    def _patience(self, status: Status) -> float:
        """Seconds to wait for attempts; while the base is loaded, none are given and the answer comes at once."""
        return self._wait_seconds if status.room is not None else min(1.0, self._wait_seconds)

    def _take(self, answer: trainer_pb2.ClaimAttemptsResponse) -> None:
        if answer.drain:
            self.drain.set()
        new = [found for found in answer.attempts if (found.tuning_job, found.attempt) not in self._seen]
        for claimed in new:
            self._seen.add((claimed.tuning_job, claimed.attempt))
            self._begin(claimed)
        if (answer.attempts and not new) or answer.drain:
            self._closing.wait(_REPEATED_PAUSE if answer.attempts else 1.0)
