"""The other tenant's page tokens and etags."""

from typing import Any, Final

from google.protobuf.message_factory import GetMessageClass

from trellis.access_table import Method, methods
from trellis.isolation.requests import name_for, request_for
from trellis.isolation.stage import Party, Stage
from trellis.isolation.verdict import SkippedError, Verdict
from trellis.v1 import dataset_pb2


def _page_tokens(stage: Stage, verdict: Verdict) -> None:
    found = 0
    for method in methods():
        fields = {field.name for field in method.descriptor.input_type.fields}
        if "page_token" not in fields or not method.access.tenant_field:
            continue
        token = _token(stage, method, stage.owner)
        if not token:
            continue
        found += 1
        request: Any = request_for(method, name_for(method, stage.intruder.tenant, stage.intruder.ids))
        request.page_token = token
        answer = stage.wire.call(method, stage.intruder.key, request)
        refused = answer.status == "INVALID_ARGUMENT" and answer.reason == "INVALID_PAGE_TOKEN"
        verdict.expect(refused, f"{method.path} took a page token of {stage.owner.tenant}: {answer}")
    verdict.expect(found > 0, "No list of the other tenant's had a second page, so that nothing was tried.")


def _token(stage: Stage, method: Method, party: Party) -> str:
    request: Any = request_for(method, name_for(method, party.tenant, party.ids))
    request.page_size = 1
    answer = stage.wire.call(method, party.key, request)
    response: Any = GetMessageClass(method.descriptor.output_type)()
    response.ParseFromString(answer.body)
    return str(response.next_page_token)


def _etags(stage: Stage, verdict: Verdict) -> None:
    delete = next(method for method in methods() if method.descriptor.name == "DeleteDataset")
    etag = stage.owner.client.datasets.get("second").etag
    if not etag:
        raise SkippedError("Datasets have no etags here.")
    name = f"{stage.intruder.parent}/datasets/second"
    answer = stage.wire.call(delete, stage.intruder.key, dataset_pb2.DeleteDatasetRequest(name=name, etag=etag))
    verdict.expect(answer.status == "ABORTED", f"{delete.path} took an etag of {stage.owner.tenant}: {answer}")
    own = stage.intruder.client.datasets.get("second")
    verdict.expect(own.name == name, f"{name} is gone.")


CHECKS: Final = (
    ("pages.tokens", "A page token of the other tenant opens no list", _page_tokens),
    ("pages.etags", "An etag of the other tenant changes nothing", _etags),
)
