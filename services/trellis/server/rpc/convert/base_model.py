"""Base models."""

from trellis.server.app.base_models import NewBaseModel
from trellis.server.app.etags import etag_of
from trellis.server.domain.base_model import BaseModel
from trellis.server.rpc.convert.times import timestamp
from trellis.v1 import base_model_pb2 as pb


def base_model(value: BaseModel) -> pb.BaseModel:
    """The base model on the wire."""
    return pb.BaseModel(
        name=value.name,
        display_name=value.display_name,
        source=value.source,
        revision=value.revision,
        architecture=value.architecture,
        context_length=value.context_length,
        parameter_count=value.parameter_count,
        vocabulary_size=value.vocabulary_size,
        tokenizer_digest=value.tokenizer_digest,
        has_chat_template=value.has_chat_template,
        is_default=value.is_default,
        create_time=timestamp(value.create_time),
        etag=etag_of(value.name, value.create_time, value.etag_revision),
    )


def new_base_model(request: pb.CreateBaseModelRequest) -> NewBaseModel:
    """The base model to register."""
    model = request.base_model
    return NewBaseModel(
        base_model_id=request.base_model_id,
        display_name=model.display_name,
        source=model.source,
        revision=model.revision,
        is_default=model.is_default,
    )
