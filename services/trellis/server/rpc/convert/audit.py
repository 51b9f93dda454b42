"""The audit trail."""

from google.protobuf import json_format

from trellis.names import TenantName
from trellis.server.app.audit_events import AuditFilter
from trellis.server.domain.audit import AuditEvent, AuditQuery
from trellis.server.rpc.convert.times import moment, timestamp
from trellis.v1 import access_pb2, audit_pb2 as pb


def audit_event(value: AuditEvent) -> pb.AuditEvent:
    """The event on the wire."""
    message = pb.AuditEvent(
        sequence=value.sequence,
        time=timestamp(value.time),
        tenant=str(TenantName(value.tenant)) if value.tenant else "",
        principal=value.principal,
        role=int(access_pb2.Role.Value(f"ROLE_{value.role}")) if value.role else 0,  # type: ignore[arg-type]
        method=value.method,
        resource=value.resource,
        source=value.source,
        request_id=value.request_id,
        status=value.status,
    )
    json_format.ParseDict(dict(value.before), message.before)
    json_format.ParseDict(dict(value.after), message.after)
    return message


def audit_filter(message: pb.ListAuditEventsRequest) -> AuditFilter:
    """Which events are asked for."""
    return AuditFilter(
        message.parent,
        AuditQuery(
            start_time=moment(message, "start_time", "start_time"),
            end_time=moment(message, "end_time", "end_time"),
            principal=message.principal,
            method=message.method,
            resource=message.resource,
            after_sequence=message.after_sequence if message.HasField("after_sequence") else None,
        ),
    )
