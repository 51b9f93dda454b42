"""The audit trail: each tenant's shows what was done to it, and nothing of the other."""

from typing import Final

from trellis.isolation.stage import Stage
from trellis.isolation.verdict import Verdict

_MOST: Final = 500


def _apart(stage: Stage, verdict: Verdict) -> None:
    for mine, theirs in ((stage.owner, stage.intruder), (stage.intruder, stage.owner)):
        count = 0
        for event in mine.client.audit.list(mine.parent):
            count += 1
            verdict.expect(event.tenant in {"", mine.parent}, f"{mine.tenant} reads an event of {event.tenant}")
            text = f"{event.before} {event.after} {event.resource}"
            verdict.expect(theirs.canary not in text, f"{mine.tenant} reads the other's data in event {event.sequence}")
            if count == _MOST:
                break
        verdict.expect(count > 0, f"{mine.tenant} has an empty trail, though keys and datasets were made")


def _secrets(stage: Stage, verdict: Verdict) -> None:
    for party in (stage.owner, stage.intruder):
        for number, event in enumerate(stage.admin.audit.list(party.parent)):
            verdict.expect(party.key not in f"{event}", f"Event {event.sequence} shows the key of {party.tenant}")
            if number == _MOST:
                break


CHECKS: Final = (
    ("trail.apart", "A tenant's audit trail shows nothing of the other", _apart),
    ("trail.secrets", "No key is in the audit trail", _secrets),
)
