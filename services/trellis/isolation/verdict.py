"""Collects what goes wrong in one check, and turns it into a finding."""

import time
from collections.abc import Callable

from trellis.isolation.finding import Finding, Outcome

_MOST_EVIDENCE = 20


class SkippedError(Exception):
    """The check can't be tried here; `str()` says why."""


class Verdict:
    """One check while it goes on."""

    def __init__(self) -> None:
        self.tries = 0
        self.wrong: list[str] = []
        self.note = ""
        """What a check that passed has to say, such as its numbers."""

    def expect(self, holds: bool, otherwise: str) -> None:
        """Count a try; note what is wrong if it does not hold."""
        self.tries += 1
        if not holds:
            self.wrong.append(otherwise)


def judged(check: str, title: str, run: Callable[[Verdict], None]) -> Finding:
    """Run a check. An error that it did not foresee fails it: what can't be understood is not proven."""
    verdict, begun = Verdict(), time.monotonic()
    outcome, detail = Outcome.PASSED, ""
    try:
        run(verdict)
    except SkippedError as error:
        outcome, detail = Outcome.SKIPPED, str(error)
    except Exception as error:  # noqa: BLE001 - the edge of a check: the others go on
        verdict.wrong.append(f"The check itself ended with {type(error).__name__}: {str(error)[:300]}")
    if verdict.wrong:
        outcome, detail = Outcome.FAILED, verdict.wrong[0]
    elif outcome is Outcome.PASSED:
        detail = verdict.note or f"{verdict.tries} calls, all as they must be."
    seconds = time.monotonic() - begun
    return Finding(check, title, outcome, detail, tuple(verdict.wrong[:_MOST_EVIDENCE]), verdict.tries, seconds)
