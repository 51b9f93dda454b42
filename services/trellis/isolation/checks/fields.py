"""The other tenant's names in every other field of a request that is in one's own tenant."""

from collections.abc import Iterator
from typing import Final

from trellis.access_table import Method, methods
from trellis.isolation.requests import PATTERNS, filled, name_for, request_for, set_text, texts_of
from trellis.isolation.stage import Stage
from trellis.isolation.verdict import Verdict

_NO_NAMES: Final = frozenset({"etag", "request_id", "page_token", "display_name", "filename", "sha256"})
_LEFT_OUT: Final = frozenset({"DeleteTenant", "RevokeApiKey", "RotateApiKey", "Generate", "ListAuditEvents"})
"""What would take the checks' own ground away; what models are told, which is no name; and one's own trail, which has the
names that one has tried.
"""
_REFERENCES: Final = (
    ("CreateTuningJob", "tuning_job.training_dataset", "Dataset"),
    ("CreateTuningJob", "tuning_job.training_dataset", "DatasetVersion"),
    ("CreateTuningJob", "tuning_job.validation_dataset", "Dataset"),
    ("CreateTuningJob", "tuning_job.replay_dataset", "Dataset"),
    ("CreateTuningJob", "tuning_job.initial_adapter", "Adapter"),
    ("CreateTuningJob", "tuning_job.alias", "Alias"),
    ("CreateExport", "export.source", "Adapter"),
    ("SetAlias", "alias.adapter", "Adapter"),
)


def _references(stage: Stage, verdict: Verdict) -> None:
    known = {str(method.descriptor.name): method for method in methods()}
    for method_name, path, resource in _REFERENCES:
        method = known[method_name]
        for ids in (stage.owner.ids, {}):
            name = filled(PATTERNS[resource], stage.owner.tenant, ids)
            request = request_for(method, name_for(method, stage.intruder.tenant, stage.intruder.ids))
            set_text(request, path.split("."), name)
            answer = stage.wire.call(method, stage.intruder.key, request)
            verdict.expect(answer.status == "PERMISSION_DENIED", f"{method.path} {path} = {name}: {answer}")


def _fields(stage: Stage, verdict: Verdict) -> None:
    for method, path in _all_fields():
        for pattern in sorted(set(PATTERNS.values())):
            said = set()
            for ids in (stage.owner.ids, {}):
                name = filled(pattern, stage.owner.tenant, ids)
                request = request_for(method, name_for(method, stage.intruder.tenant, {}))
                set_text(request, path, name)
                answer = stage.wire.call(method, stage.intruder.key, request)
                said.add(f"{answer.without({name: '…'})} {answer.body!r}"[:400])
                fault = answer.status in {"INTERNAL", "UNKNOWN"}
                verdict.expect(not fault, f"{method.path} {'.'.join(path)} = {name}: {answer}")
            verdict.expect(
                len(said) == 1, f"{method.path} {'.'.join(path)} tells of {pattern}: {' | '.join(sorted(said))}"
            )


def _all_fields() -> Iterator[tuple[Method, list[str]]]:
    for method in methods():
        if not method.access.tenant_field or method.descriptor.name in _LEFT_OUT:
            continue
        for path in texts_of(method.descriptor.input_type):
            if ".".join(path) != method.access.tenant_field and path[-1] not in _NO_NAMES:
                yield method, path


CHECKS: Final = (
    ("fields.references", "Nothing of one's own can be made from what is the other tenant's", _references),
    ("fields.alike", "No field tells whether something of the other tenant exists", _fields),
)
