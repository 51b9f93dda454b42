"""Errors that say which limit of a quota leaves no room, with its numbers."""

from trellis.errors import QuotaViolation, Reason, TrellisError, error_for


def never_fits(violations: tuple[QuotaViolation, ...]) -> TrellisError:
    """The error for what no waiting makes room for."""
    message = " ".join(violation.description for violation in violations)
    return error_for(Reason.NEVER_FITS, message, metadata=metadata_of(violations[0]), quota_violations=violations)


def metadata_of(violation: QuotaViolation) -> dict[str, str]:
    """The limit and its numbers, for those who read an error's metadata only."""
    numbers = {"allowed": violation.allowed, "used": violation.used, "asked": violation.asked}
    return {"limit": violation.limit, **{name: f"{number:.15g}" for name, number in numbers.items()}}
