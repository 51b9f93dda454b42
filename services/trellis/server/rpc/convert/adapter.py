"""Adapters and aliases."""

import json

from google.protobuf import json_format

from trellis.names import AdapterName, TenantName
from trellis.server.app.adapters import AdapterFile, alias_name
from trellis.server.app.etags import etag_of
from trellis.server.app.imports import ImportedFile, ImportHeader
from trellis.server.domain.adapter import Adapter, AdapterShare, Alias
from trellis.server.rpc.convert.enums import to_wire
from trellis.server.rpc.convert.times import timestamp
from trellis.v1 import adapter_pb2 as pb


def adapter(value: Adapter, *, with_manifest: bool = True) -> pb.Adapter:
    """The adapter on the wire."""
    message = pb.Adapter(
        name=value.name,
        display_name=value.display_name,
        digest=value.digest,
        base_model=value.base_model,
        tuning_job=value.tuning_job,
        rank=value.rank,
        target_modules=value.target_modules,
        size_bytes=value.size_bytes,
        deployment=to_wire(pb.Adapter.Deployment, "DEPLOYMENT_", value.deployment),
        deployment_message=value.deployment_message,
        create_time=timestamp(value.create_time),
        etag=etag_of(value.name, value.create_time, value.revision),
    )
    if with_manifest:
        json_format.ParseDict(json.loads(value.manifest_json), message.manifest)
    return message


def alias(value: Alias) -> pb.Alias:
    """The alias on the wire."""
    name = alias_name(value)
    return pb.Alias(
        name=name,
        adapter=str(AdapterName.for_digest(value.tenant, value.adapter_digest)),
        update_time=timestamp(value.update_time),
        etag=etag_of(name, value.update_time, value.revision),
    )


def share(value: AdapterShare) -> pb.AdapterShare:
    """The share on the wire."""
    return pb.AdapterShare(
        adapter=str(AdapterName.for_digest(value.owner, value.digest)),
        tenant=str(TenantName(value.tenant)),
        create_time=timestamp(value.create_time),
    )


def file_header(file: AdapterFile) -> pb.DownloadAdapterResponse:
    """The beginning of a file, on the wire."""
    facts = file.facts
    header = pb.DownloadAdapterResponse.FileHeader(filename=file.name, size_bytes=facts.size, sha256=facts.sha256)
    return pb.DownloadAdapterResponse(file=header)


def import_header(message: pb.ImportAdapterRequest.Header) -> ImportHeader:
    """What is to come."""
    return ImportHeader(message.parent, message.base_model, message.display_name)


def imported_file(message: pb.ImportAdapterRequest.FileHeader) -> ImportedFile:
    """The beginning of a file."""
    return ImportedFile(message.filename, message.size_bytes, message.sha256)
