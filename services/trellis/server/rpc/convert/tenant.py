"""Tenants."""

from trellis.names import TenantName
from trellis.server.app.etags import etag_of
from trellis.server.domain.tenant import Tenant
from trellis.server.rpc.convert.quota import quota
from trellis.server.rpc.convert.times import timestamp
from trellis.v1 import tenant_pb2 as pb


def tenant(value: Tenant) -> pb.Tenant:
    """The tenant on the wire."""
    name = str(TenantName(value.tenant_id))
    return pb.Tenant(
        name=name,
        display_name=value.display_name,
        create_time=timestamp(value.create_time),
        etag=etag_of(name, value.create_time, value.revision),
        serving_weight=value.serving_weight,
        training_weight=value.training_weight,
        cohort=value.cohort,
        quota=quota(value.quota),
    )
