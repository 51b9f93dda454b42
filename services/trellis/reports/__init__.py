"""The report on a dataset: everything a person wants to know before it is trained on. The same in the SDK and server."""

from trellis.reports.build import build_report
from trellis.reports.previews import Preview, Segment
from trellis.reports.report import DatasetReport, Lengths, Lines

__all__ = ["DatasetReport", "Lengths", "Lines", "Preview", "Segment", "build_report"]
