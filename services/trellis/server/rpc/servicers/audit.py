"""AuditService."""

from trellis.server.app import audit_events
from trellis.server.app.context import Context
from trellis.server.rpc.calls import current_caller
from trellis.server.rpc.convert.audit import audit_event, audit_filter
from trellis.server.rpc.servicers.requests import ServicerContext, page_query
from trellis.v1 import audit_pb2 as pb
from trellis.v1.audit_pb2_grpc import AuditServiceServicer


class AuditServicer(AuditServiceServicer):
    """See proto/trellis/v1/audit.proto."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, _: ServicerContext
    ) -> pb.ListAuditEventsResponse:
        asked, caller = audit_filter(request), current_caller()
        page = await audit_events.list_audit_events(self._context, caller, asked, page_query(request))
        return pb.ListAuditEventsResponse(events=map(audit_event, page.items), next_page_token=page.next_page_token)
