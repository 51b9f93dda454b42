"""What a benchmark found, as rows: printed as a table, written as JSON; the same in every script of this folder."""

from tests.bench.report.machine import Machine, versions
from tests.bench.report.progress import say
from tests.bench.report.row import Row
from tests.bench.report.sheet import Sheet, cache_option, output_options

__all__ = ["Machine", "Row", "Sheet", "cache_option", "output_options", "say", "versions"]
