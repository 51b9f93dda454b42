"""What is done to an installation: each fault has a way to strike and a way to be mended."""

import asyncio
import random
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from tests.chaos.door import Way
from tests.chaos.installation import HEAD, LEASE_SECONDS, NODE, S3, SERVERS, Installation, send
from tests.chaos.schedule import Kind
from tests.chaos.zombies import until_given_up

Act = Callable[[], Coroutine[Any, Any, None]]
TRAINER: Final = "trellis_jobs.shared.main"
ENGINE: Final = ":engine"
_WORDS: Final = {"trainer": TRAINER, "engine": ENGINE, "controller": "ServeController", "proxy": "ProxyActor"}
_WAYS: Final = {"shut S3": Way.SHUT, "make S3 silent": Way.SILENT, "make S3 slow": Way.SLOW}
_HUNG: Final = (LEASE_SECONDS + 2.0, LEASE_SECONDS + 6.0)
"""So long that whoever hangs has lost its leases when it goes on."""
GIVEN_UP: Final = "stop the trainer until it is given up"

KINDS: Final = (
    Kind("kill a server", "servers", 0.5, 6.0),
    Kind("kill both servers", "servers", 0.5, 3.0),
    Kind("kill PostgreSQL", "postgres", 0.5, 6.0),
    Kind("kill the trainer", "trainer", 0.0, 0.0),
    Kind("kill the engine", "engine", 0.0, 0.0),
    Kind("kill Ray's head", "ray", 0.5, 4.0),
    Kind("kill Ray's node", "ray", 0.5, 4.0),
    Kind("kill S3", "s3", 1.0, 8.0),
    Kind("shut S3", "s3", 1.0, 8.0),
    Kind("make S3 silent", "s3", 2.0, 12.0),
    Kind("make S3 slow", "s3", 3.0, 10.0),
    Kind("stop a server", "servers", *_HUNG),
    Kind("stop PostgreSQL", "postgres", 1.0, 12.0),
    Kind("stop the trainer", "trainer", *_HUNG),
    Kind(GIVEN_UP, "trainer", 20.0, 25.0),
    Kind("stop the engine", "engine", 1.0, 8.0),
    Kind("stop S3", "s3", 2.0, 12.0),
    Kind("kill Serve's controller", "controller", 0.0, 0.0),
    Kind("stop Serve's controller", "controller", 2.0, 12.0),
    Kind("kill Serve's proxies", "proxy", 0.0, 0.0),
    Kind("stop Serve's proxies", "proxy", 2.0, 12.0),
    Kind("stop Ray's head", "ray", 2.0, *_HUNG[1:]),
    Kind("stop Ray's node", "ray", *_HUNG),
)
HEAVY: Final = tuple(kind for kind in KINDS if kind.name.startswith("kill") and "Serve" not in kind.name)
"""Deaths of whole parts alone, each of them once: what a short run has time for."""
BRIEF: Final = tuple(kind for kind in HEAVY if kind.part != "ray" and kind.name != "kill both servers")
"""Those from which an installation comes back in seconds: what CI has time for."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Strikes one installation; `chance` chooses among its alike parts."""

    there: Installation
    chance: random.Random

    async def strike(self, kind: Kind, seconds: float) -> None:
        """Let a fault be there for so long; it is mended when this returns, whatever comes."""
        begin, mend = self._acts(kind)
        try:
            await begin()
            if kind.name == GIVEN_UP:
                await until_given_up(self.there, TRAINER, seconds)
            else:
                await asyncio.sleep(seconds)
        finally:
            await mend()

    def _acts(self, kind: Kind) -> tuple[Act, Act]:
        there, verb = self.there, kind.name.partition(" ")[0]
        if kind.part == "postgres":
            return self._postgres(verb)
        if kind.name in _WAYS:
            return partial(there.door.set, _WAYS[kind.name]), there.door.open
        if kind.part in _WORDS:  # started again by whoever owns them
            number = signal.SIGKILL if verb == "kill" else signal.SIGSTOP
            return self._signal(number, there.pids_of(_WORDS[kind.part]))
        parts = self._parts(kind)
        if verb == "kill":
            return self._kill(*parts)
        return self._signal(signal.SIGSTOP, [pid for part in parts for pid in there.pids(part)])

    def _parts(self, kind: Kind) -> tuple[str, ...]:
        if kind.name.endswith("a server"):
            return (self.chance.choice(SERVERS),)
        return {"both servers": SERVERS, "Ray's head": (HEAD,), "Ray's node": (NODE,), "S3": (S3,)}[
            kind.name.partition(" ")[2]
        ]

    def _postgres(self, verb: str) -> tuple[Act, Act]:
        postgres = self.there.postgres
        if verb == "kill":
            return partial(asyncio.to_thread, postgres.kill), partial(asyncio.to_thread, postgres.start_again)
        return (
            partial(asyncio.to_thread, postgres.signal, signal.SIGSTOP),
            partial(asyncio.to_thread, postgres.signal, signal.SIGCONT),
        )

    def _kill(self, *parts: str) -> tuple[Act, Act]:
        """All processes of these, as a machine that dies; they are started again when it is mended."""

        async def begin() -> None:
            self.there.held_down.update(parts)
            for part in parts:
                while pids := await asyncio.to_thread(self.there.pids, part):
                    send(signal.SIGKILL, *pids)
                    await asyncio.sleep(0.05)

        async def mend() -> None:
            self.there.held_down.difference_update(parts)

        return begin, mend

    def _signal(self, number: signal.Signals, pids: list[int]) -> tuple[Act, Act]:
        async def begin() -> None:
            if not pids:
                self.there.say("there is nobody whom this strikes")
            send(number, *pids)

        async def mend() -> None:
            send(signal.SIGCONT, *pids)

        return begin, mend
