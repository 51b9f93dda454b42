"""Runs the checks, one after another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from trellis.client import Client
from trellis.errors import InvalidArgument
from trellis.isolation.checks import caches, fields, keys, leaks, names, neighbour, pages, paths, quotas, trail
from trellis.isolation.finding import Finding
from trellis.isolation.report import Report
from trellis.isolation.stage import Stage
from trellis.isolation.verdict import Verdict, judged

Check = tuple[str, str, Callable[[Stage, Verdict], None]]
"""Id, what must hold, and what tries it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is tried, and how patiently."""

    with_training: bool = True
    """Whether each tenant tunes a small adapter first; without, whatever needs one is skipped."""
    metrics_urls: tuple[str, ...] = ()
    """Where metrics are read, to look for what should not be there."""
    patience: float = 600.0
    """Seconds that the tenants' jobs may take, queue included."""
    flood_seconds: float = 8.0
    """How long the noisy neighbour makes noise."""
    most_slowdown: float = 10.0
    """How many times as long a call may take beside it, a second aside."""
    only: tuple[str, ...] = ()
    """The ids of the checks to make, such as `names.denied`, or their beginnings, such as `names`; all when empty."""

    def wants(self, check: str) -> bool:
        """Whether this check is to be made."""
        return not self.only or any(check == one or check.startswith(f"{one}.") for one in self.only)


def _checks(options: Options) -> Sequence[Check]:
    return (
        *names.CHECKS,
        *fields.CHECKS,
        *pages.CHECKS,
        *paths.CHECKS,
        *keys.CHECKS,
        *leaks.checks(options.metrics_urls),
        *caches.CHECKS,
        *neighbour.checks(options.flood_seconds, options.most_slowdown),
        *quotas.CHECKS,
        *trail.CHECKS,
    )


CHECK_IDS: Final = tuple(check for check, _, _ in _checks(Options()))
"""Of all checks, in the order in which they are made."""


def verify(admin: Client, options: Options, tell: Callable[[str], None], seen: Callable[[Finding], None]) -> Report:
    """Make two tenants, try all checks between them, and delete them again, whatever happens.

    `admin` is a platform admin's client. `tell` hears what goes on, `seen` each finding as it comes. Raises TrellisError
    where the tenants can't be made, InvalidArgument for a check that there is none of.
    """
    for one in options.only:
        if not any(replace(options, only=(one,)).wants(check) for check in CHECK_IDS):
            raise InvalidArgument.for_field("only", f"There is no check {one!r}; there are {', '.join(CHECK_IDS)}.")
    begun = datetime.now(UTC)
    findings: list[Finding] = []
    stage = Stage(admin, with_training=options.with_training, patience=options.patience, tell=tell)
    with stage:
        tenants = (stage.owner.tenant, stage.intruder.tenant)
        for check, title, run in _checks(options):
            if not options.wants(check):
                continue
            tell(title)
            finding = judged(check, title, lambda verdict, run=run: run(stage, verdict))  # type: ignore[misc]
            findings.append(finding)
            seen(finding)
    version = admin.server_version
    return Report(admin.settings.endpoint, version, begun, tenants, tuple(findings), tuple(stage.left_behind))
