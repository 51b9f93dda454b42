"""Reports on dataset versions."""

from trellis.names import DatasetReportName
from trellis.reports import DatasetReport
from trellis.server.app.reports import FoundReport
from trellis.server.rpc.convert.dataset import example_kind, file_format
from trellis.server.rpc.convert.enums import to_wire
from trellis.v1 import dataset_pb2 as pb

_MAX_ERROR_BYTES = 3 << 20
"""A client takes messages of 4 MiB, unless it says otherwise."""


def dataset_report(value: FoundReport) -> pb.DatasetReport:
    """The report on the wire."""
    report, version = value.report, value.version
    message = pb.DatasetReport(
        name=str(DatasetReportName(version.tenant, version.dataset_id, version.sha256)),
        state=to_wire(pb.DatasetReport.State, "STATE_", report.state),
        base_model=report.base_model,
        valid=report.valid,
        summary=report.summary,
        format=file_format(version.file_format),
    )
    if value.finding is not None:
        _add_counts(message, value.finding)
        _add_errors(message, value.finding)
        _add_previews(message, value.finding)
    return message


def _add_counts(message: pb.DatasetReport, found: DatasetReport) -> None:
    message.kind = example_kind(found.kind.value if found.kind else "")
    message.line_count = found.lines
    message.valid_line_count = found.valid_lines
    message.token_count = found.tokens or 0
    message.trainable_token_count = found.trainable_tokens or 0
    message.context_length = found.context_length or 0
    message.cut_line_count = found.cut.count
    message.cut_lines.extend(found.cut.first)
    message.duplicate_line_count = found.duplicates.count
    message.duplicate_lines.extend(found.duplicates.first)
    message.held_out_line_count = found.held_out_lines
    if found.lengths is not None:
        lengths = found.lengths
        message.lengths.CopyFrom(
            pb.DatasetReport.Lengths(p50=lengths.p50, p90=lengths.p90, p99=lengths.p99, max=lengths.max)
        )


def _add_errors(message: pb.DatasetReport, found: DatasetReport) -> None:
    message.error_count = found.error_count
    for code, count in sorted(found.error_counts.items(), key=lambda item: (-item[1], item[0])):
        message.error_counts.add(code=code, count=count)
    room = _MAX_ERROR_BYTES
    for error in found.errors:
        said = pb.DatasetReport.LineError(
            line=error.line, path=error.path, code=error.code, message=error.message, hint=error.hint
        )
        room -= said.ByteSize()
        if room < 0:
            break  # the counts are of all errors in any case
        message.errors.append(said)


def _add_previews(message: pb.DatasetReport, found: DatasetReport) -> None:
    for preview in found.previews:
        added = message.previews.add(line=preview.line)
        for segment in preview.segments:
            added.segments.add(text=segment.text, trained=segment.trained)
