"""Whether Kubernetes' rules of a Role allow a call."""

from collections.abc import Mapping, Sequence
from typing import Any

Rule = Mapping[str, Any]
"""One of a Role's `rules`."""


def allows(rules: Sequence[Rule], call: tuple[str, str, str], name: str) -> bool:
    """Of group, resource and verb. The name is empty where the call has none, as of a list and of what is created."""
    return any(_allows(rule, call, name) for rule in rules)


def _allows(rule: Rule, call: tuple[str, str, str], name: str) -> bool:
    group, resource, verb = call
    names = rule.get("resourceNames") or ()
    return (
        _has(rule["apiGroups"], group)
        and _has(rule["resources"], resource)
        and _has(rule["verbs"], verb)
        and (not names or name in names)
    )


def _has(every: Sequence[str], one: str) -> bool:
    return one in every or "*" in every
