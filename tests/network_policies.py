"""What NetworkPolicies let through, by the words of Kubernetes' documentation: a model, for there is no cluster here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, Final

NAME: Final = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Party:
    """A pod, or, without labels, an address outside of the cluster."""

    name: str
    labels: Mapping[str, str] | None = None
    namespace: str = ""
    address: str = "10.244.0.10"
    namespace_labels: Mapping[str, str] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.name)


Policies = Sequence[Mapping[str, Any]]


def allows(policies: Policies, source: Party, target: Party, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection is let through: out of its source, and into its target."""
    return leaves(policies, source, target, port, protocol) and enters(policies, source, target, port, protocol)


def leaves(policies: Policies, source: Party, target: Party, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection is let out of its source."""
    return _one_way(policies, source, target, port, protocol, "Egress", "to")


def enters(policies: Policies, source: Party, target: Party, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection is let into its target."""
    return _one_way(policies, target, source, port, protocol, "Ingress", "from")


def _one_way(
    policies: Iterable[Mapping[str, Any]], own: Party, other: Party, port: int, protocol: str, way: str, peers: str
) -> bool:
    selecting = [one for one in policies if _selects(one, own) and way in one["spec"]["policyTypes"]]
    if not selecting:
        return True  # of a pod that no policy selects, everything is let through
    return any(
        _matches(rule, peers, other, port, protocol, policy["metadata"]["namespace"])
        for policy in selecting
        for rule in policy["spec"].get(way.lower()) or ()
    )


def _selects(policy: Mapping[str, Any], party: Party) -> bool:
    same = party.labels is not None and party.namespace == policy["metadata"]["namespace"]
    return same and _labelled(policy["spec"]["podSelector"], party.labels or {})


def _matches(rule: Mapping[str, Any], peers: str, other: Party, port: int, protocol: str, namespace: str) -> bool:
    ports = rule.get("ports")
    if ports and not any(_is_port(one, port, protocol) for one in ports):
        return False
    return not rule.get(peers) or any(_is_peer(one, other, namespace) for one in rule[peers])


def _is_port(one: Mapping[str, Any], port: int, protocol: str) -> bool:
    assert isinstance(one.get("port", 0), int), "names of ports are not modelled"
    if one.get("protocol", "TCP") != protocol:
        return False
    return "port" not in one or one["port"] <= port <= one.get("endPort", one["port"])


def _is_peer(peer: Mapping[str, Any], other: Party, namespace: str) -> bool:
    if "ipBlock" in peer:
        address, block = ip_address(other.address), peer["ipBlock"]
        inside = address in ip_network(block["cidr"])
        # What a block says of pods depends on the network: it is taken for addresses outside alone.
        return (
            other.labels is None and inside and not any(address in ip_network(one) for one in block.get("except", ()))
        )
    if other.labels is None:
        return False
    if "namespaceSelector" in peer:
        if not _labelled(peer["namespaceSelector"], {NAME: other.namespace, **other.namespace_labels}):
            return False
    elif other.namespace != namespace:
        return False
    return _labelled(peer.get("podSelector", {}), other.labels)


def _labelled(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_expression(one, labels) for one in selector.get("matchExpressions", ()))


def _expression(one: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    present, among = one["key"] in labels, labels.get(one["key"]) in one.get("values", ())
    return {"In": present and among, "NotIn": not among, "Exists": present, "DoesNotExist": not present}[
        one["operator"]
    ]
