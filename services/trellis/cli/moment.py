"""Times on the command line."""

from datetime import UTC, datetime

import click


class Moment(click.ParamType[datetime]):
    """A time such as `2026-03-01` or `2026-03-01T12:00:00+01:00`; UTC unless it says otherwise."""

    name = "TIME"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read it."""
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2026-03-01 or 2026-03-01T12:00:00+01:00.", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
