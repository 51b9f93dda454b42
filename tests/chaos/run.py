"""One run: start everything, load it, break it by a schedule, let it come to rest, and look at what is left."""

import asyncio
import random
import shlex
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trellis
from tests.chaos.checks import check
from tests.chaos.diary import Diary
from tests.chaos.faults import BRIEF, HEAVY, KINDS, Faults
from tests.chaos.installation import Installation, installation
from tests.chaos.load import CALL_SECONDS, JOB_SECONDS, Load, prepare
from tests.chaos.schedule import Kind, Strike, make_schedule
from tests.chaos.settling import settle, until_rest


@dataclass
class Run:
    """A seed and what came of it; `wrong` are the sentences on what is not as it must be."""

    seed: int
    seconds: float = 40.0
    """So long faults strike."""
    kinds: Sequence[Kind] = HEAVY
    say: Callable[[str], None] = partial(print, flush=True)
    lines: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    diary: Diary = field(default_factory=Diary)
    struck: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    async def go(self) -> None:
        """All of it. Only an installation that can't be started at all raises."""
        # Without its deaths Ray's other node is one more thing to wait for.
        async with installation(self.tell, two_nodes=any(kind.part == "ray" for kind in self.kinds)) as there:
            self.tell("the servers serve")
            admin = trellis.AsyncClient(there.endpoint, there.admin_key, timeout=CALL_SECONDS)
            async with asyncio.timeout(120):
                tenants = await prepare(admin, there.endpoint)
            load = Load(self.seed, self.diary, admin, tenants)
            try:
                working = await self._disturb(there, load)
                await settle(there, tenants, self.tell)
                await asyncio.wait_for(working, JOB_SECONDS)
                await settle(there, tenants, self.tell)  # what was begun until then
                self.tell("all is at rest")
                self.wrong += [*self.diary.unexplained, *await check(there, self.diary, admin, tenants, self.tell)]
            except Exception as error:  # noqa: BLE001 - whatever it is, it is said with the seed and its faults
                self.wrong.append("".join(traceback.format_exception(error)))
            finally:
                for client in (admin, *(tenant.client for tenant in tenants)):
                    await client.close()
                if self.wrong:
                    self.tell(there.last_words(25))

    async def _disturb(self, there: Installation, load: Load) -> asyncio.Task[None]:
        working = asyncio.create_task(load.run())
        await until_rest("the load is under way", partial(_idle, load), self.tell)
        self.began = time.monotonic()
        faults = Faults(there, random.Random(f"{self.seed} faults"))
        async with asyncio.TaskGroup() as group:
            for strike in make_schedule(self.seed, self.seconds, self.kinds):
                group.create_task(self._strike(faults, strike))
        self.tell("no faults from here on")
        load.stopping.set()
        return working

    async def _strike(self, faults: Faults, strike: Strike) -> None:
        await asyncio.sleep(max(0.0, self.began + strike.at - time.monotonic()))
        self.struck.append(str(strike))
        self.tell(f"fault: {strike.kind.name} for {strike.seconds:.1f} s")
        await faults.strike(strike.kind, strike.seconds)

    def tell(self, what: str) -> None:
        """Write down and say."""
        line = f"[seed {self.seed}, {time.monotonic() - self.began:6.1f} s] {what}"
        self.lines.append(line)
        self.say(line)

    @property
    def _command(self) -> str:
        """What runs this again."""
        chosen = "".join(f" --kind {shlex.quote(kind.name)}" for kind in self.kinds)
        flag = {HEAVY: " --heavy", BRIEF: " --brief", KINDS: ""}.get(tuple(self.kinds), chosen)
        return f"python -m tests.chaos --seed {self.seed} --minutes {self.seconds / 60:.3g}{flag}"

    def verdict(self) -> str:
        """What came of it, with how to repeat it."""
        told = ", ".join(f"{count} {what}" for what, count in sorted(self.diary.told.items()))
        if not self.wrong:
            return f"seed {self.seed}: all is as it must be after {len(self.struck)} faults; {told}"
        wrong = "\n  - ".join(self.wrong)
        struck = "\n  ".join(self.struck)
        return (
            f"seed {self.seed} FAILED; `{self._command}` repeats it.\nThe faults were\n  {struck}\n"
            f"and what is wrong is\n  - {wrong}\nThe clients were told: {told}"
        )


async def _idle(load: Load) -> str:
    """What of the load is not under way yet: faults shall find answers and training to interrupt."""
    began = {job.tenant for job in load.diary.jobs if any(event.progress for event in job.events)}
    asked = {asked.tenant for asked in load.diary.asked}
    waiting = [f"{t.name} trains" for t in load.tenants if t.name not in began]
    return "; ".join([*waiting, *(f"{t.name} is answered" for t in load.tenants if t.name not in asked)])
