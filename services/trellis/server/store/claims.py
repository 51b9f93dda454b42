"""Control loops' holds on rows: who may take a row, and how it is held."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Table, or_

from trellis.server.app.ports import Claim

HELD_BY_NOBODY: Mapping[str, Any] = {"claim_token": None, "claim_expire_time": None}
"""The columns of a row that was let go."""


def held_by(claim: Claim) -> dict[str, Any]:
    """The columns of a row that is held."""
    return {"claim_token": claim.token, "claim_expire_time": claim.expire_time}


def is_free(table: Table, now: datetime) -> ColumnElement[bool]:
    """Whether nobody holds the row any more."""
    expires = table.c.claim_expire_time
    return or_(expires.is_(None), expires <= now)
