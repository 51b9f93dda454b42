"""The audit trail in memory."""

from typing import Any

from tests.fake_server.pages import page_of
from trellis.v1 import audit_pb2 as pb
from trellis.v1.audit_pb2_grpc import AuditServiceServicer


class AuditTrail(AuditServiceServicer):
    """What a test puts there, in the order of its sequence."""

    def __init__(self) -> None:
        self.events: list[pb.AuditEvent] = []
        self.requests: list[Any] = []

    def ListAuditEvents(self, request: Any, context: Any) -> Any:
        self.requests.append(pb.ListAuditEventsRequest.FromString(request.SerializeToString()))
        parent = "" if request.parent == "platform" else request.parent
        found = [
            event
            for event in self.events
            if parent in {"tenants/-", event.tenant}
            and event.sequence > request.after_sequence
            and request.principal in {"", event.principal}
            and request.method in {"", event.method, event.method.rpartition("/")[2]}
            and f"{event.resource}/".startswith(f"{request.resource}/" if request.resource else "")
        ]
        ordered = found if request.HasField("after_sequence") else found[::-1]
        events, token = page_of(ordered, request)
        return pb.ListAuditEventsResponse(events=events, next_page_token=token)
