"""Whether an object still says all that was written into it, whatever others have added."""

from collections.abc import Mapping
from typing import Any


def covers(live: Any, wanted: Any) -> bool:
    """Whether all that `wanted` says stands in `live` too. Kubernetes leaves empty values out, and adds defaults."""
    if isinstance(wanted, Mapping):
        there = live if isinstance(live, Mapping) else {}
        return all(covers(there.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        there_too = live if isinstance(live, list) else []
        return len(there_too) >= len(wanted) and all(any(covers(one, item) for one in there_too) for item in wanted)
    if wanted in ("", None) and live is None:
        return True
    return bool(live == wanted)
