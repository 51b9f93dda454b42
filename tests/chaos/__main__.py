"""Runs by hand: `python -m tests.chaos --seeds 20 --minutes 5`."""

import argparse
import asyncio
import random
import signal
import sys

from tests.chaos.faults import BRIEF, HEAVY, KINDS
from tests.chaos.run import Run


async def _until_told_to_end(run: Run) -> None:
    """Ctrl-C and SIGTERM leave no process behind either."""
    running = asyncio.current_task()
    assert running is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    await run.go()


def main() -> int:
    """Run one seed after another; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="the first seed; without it, a random one")
    parser.add_argument("--seeds", type=int, default=1, help="how many runs, each with the next seed")
    parser.add_argument("--minutes", type=float, default=0.7, help="so long faults strike in each run")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--heavy", action="store_true", help="deaths only, as `make chaos` has them")
    some.add_argument("--brief", action="store_true", help="deaths that are soon got over, as CI has them")
    some.add_argument(
        "--kind", action="append", choices=[kind.name for kind in KINDS], help="this fault; may be repeated"
    )
    asked = parser.parse_args()
    chosen = tuple(kind for kind in KINDS if kind.name in (asked.kind or ()))
    kinds = HEAVY if asked.heavy else BRIEF if asked.brief else chosen or KINDS
    first = random.SystemRandom().randrange(1_000_000) if asked.seed is None else asked.seed
    failed = []
    for seed in range(first, first + asked.seeds):
        run = Run(seed, asked.minutes * 60, kinds)
        asyncio.run(_until_told_to_end(run))
        print(run.verdict(), flush=True)  # noqa: T201 - a command
        failed += [seed] if run.wrong else []
    print(f"{asked.seeds - len(failed)} of {asked.seeds} runs were well; failed seeds: {failed or 'none'}")  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
